"""Who a process is, from the variables that torchrun sets."""

import pytest

from trainer.errors import UsageError
from trainer.world import World

MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_without_variables_a_process_is_alone() -> None:
    assert World.of({}) == World(rank=0, size=1, local_rank=0, restart=0, shares_store=False)
    assert World.of({}).is_first


def test_torchrun_s_variables_are_read() -> None:
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2", **MASTER}
    assert World.of(environment) == World(rank=5, size=8, local_rank=1, restart=2)
    assert not World.of(environment).is_first


def test_a_shared_store_matters_only_where_processes_are_restarted() -> None:
    shared = {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert World.of({**shared, "TORCHELASTIC_MAX_RESTARTS": "3"}).shares_store
    assert not World.of({**shared, "TORCHELASTIC_MAX_RESTARTS": "0"}).shares_store
    assert not World.of({"TORCHELASTIC_USE_AGENT_STORE": "False", "TORCHELASTIC_MAX_RESTARTS": "3"}).shares_store


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(UsageError, match="RANK=first: must be a number; start with torchrun, or unset it"):
        World.of({"RANK": "first"})


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"RANK": "3"}, "RANK=3 with no WORLD_SIZE; are they left by another launcher? start with torchrun, or unset RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2", **MASTER}, "RANK=2 with WORLD_SIZE=2; are they left by another launcher?"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 with WORLD_SIZE=0; are they left by another launcher?"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2 without MASTER_ADDR; are they left by another launcher?"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "WORLD_SIZE=2 without MASTER_PORT; are they left by another"),
        ({"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE=x: must be a number of 1 or more; start with torchrun, or unset it"),
    ],
)
def test_variables_that_another_launcher_left_are_named(variables: dict[str, str], wanted: str) -> None:
    with pytest.raises(UsageError) as raised:
        World.of(variables)
    assert str(raised.value).startswith(wanted)
