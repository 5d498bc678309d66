"""Who a process is, from the variables that torchrun sets."""

import pytest

from trainer.errors import UsageError
from trainer.world import World


def test_without_variables_a_process_is_alone() -> None:
    assert World.of({}) == World(rank=0, size=1, local_rank=0, restart=0, shares_store=False)
    assert World.of({}).is_first


def test_torchrun_s_variables_are_read() -> None:
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
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
