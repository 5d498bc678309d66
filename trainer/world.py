"""Which process of a run this one is. Pure; what processes say to each other is in trainer.training.peers."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import UsageError
from trainer.heartbeat import UNWATCHED, Heartbeat

_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"}
_LEFT_OVER = "are they left by another launcher? start with torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK"


@dataclass(frozen=True, slots=True)
class World:
    """This process among all processes of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restart: int = 0
    may_restart: bool = False
    """Under an agent that starts processes again."""
    heartbeat: Heartbeat = UNWATCHED
    """Where this process shows that it gets on."""
    shares_store: bool = False
    """Under a torchrun that may restart processes and shares its rendezvous store with them."""

    @staticmethod
    def of(environment: Mapping[str, str]) -> "World":
        """From the variables that torchrun and deepspeed set; without them, a world of one. Raises UsageError."""
        values = {name: environment.get(name, default) for name, default in _VARIABLES.items()}
        for name, value in values.items():
            if not value.isdecimal():
                raise UsageError(f"{name}={value}: must be a number; start with torchrun, or unset it")
        if int(values["RANK"]) >= int(values["WORLD_SIZE"]):
            given = environment.get("WORLD_SIZE")
            raise UsageError(f"RANK={values['RANK']} with {f'WORLD_SIZE={given}' if given else 'no WORLD_SIZE'}; {_LEFT_OVER}")
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if int(values["WORLD_SIZE"]) > 1 and not environment.get(name):
                raise UsageError(f"WORLD_SIZE={values['WORLD_SIZE']} without {name}; {_LEFT_OVER}")
        here = environment.get("LOCAL_WORLD_SIZE", "1")
        if not here.isdecimal() or int(here) == 0:
            raise UsageError(f"LOCAL_WORLD_SIZE={here}: must be a number of 1 or more; start with torchrun, or unset it")
        may_restart = environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        shares_store = may_restart and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        rank, size, local_rank, restart = map(int, values.values())
        heartbeat = Heartbeat.of(environment, local_rank)
        return World(rank, size, local_rank, restart, may_restart, heartbeat, shares_store)

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0
