"""From a container's environment to the command that it starts."""

import sys
from pathlib import Path

import pytest

from trainer.elastic.mpi import MASTER, MpiLauncher, MpiRank, hosts_of
from trainer.elastic.placement import Agent, placement_of
from trainer.elastic.settings import Settings
from trainer.errors import UsageError

JOB = {
    "PRETRAIN_RUN_BACKEND": "job",
    "PRETRAIN_RUN_NAME": "small",
    "PRETRAIN_RUN_STATE": "/runs/small",
    "PRETRAIN_RUN_NODES": "1:3",
    "PRETRAIN_RUN_PROCESSES": "2",
    "PRETRAIN_RUN_RENDEZVOUS": "small-0.small:29400",
    "JOB_COMPLETION_INDEX": "0",
    "POD_NAME": "small-0-x7k2p",
    "POD_IP": "10.0.0.7",
}
PYTORCHJOB = {
    "PRETRAIN_RUN_BACKEND": "pytorchjob",
    "PRETRAIN_RUN_NAME": "small",
    "PRETRAIN_RUN_STATE": "/runs/small",
    "PRETRAIN_RUN_NODES": "9:9",
    "PRETRAIN_RUN_PROCESSES": "9",
    "PET_RDZV_BACKEND": "c10d",
    "PET_RDZV_ENDPOINT": "small-worker-0:23456",
    "PET_RDZV_ID": "small-0123",
    "PET_RDZV_CONF": "join_timeout=77,is_host=1",
    "PET_NNODES": "1:3",
    "PET_NPROC_PER_NODE": "2",
    "PET_MAX_RESTARTS": "4",
    "POD_NAME": "small-worker-1",
    "POD_IP": "10.0.0.8",
}
MPIJOB = {
    "PRETRAIN_RUN_BACKEND": "mpijob",
    "PRETRAIN_RUN_NAME": "small",
    "PRETRAIN_RUN_STATE": "/runs/small",
    "PRETRAIN_RUN_PROCESSES": "2",
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
    "POD_NAME": "small-launcher-abcde",
    "NCCL_SOCKET_IFNAME": "eth0",
    "WANDB_API_KEY": "a-secret",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
}


def agent(environment: dict[str, str]) -> Agent:
    placement = placement_of(Settings.of(environment, "host"), environment, [])
    assert isinstance(placement, Agent)
    return placement


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_an_agent_s_command_says_everything_and_hands_the_trainer_s_arguments_on_unchanged() -> None:
    command = agent(JOB).command(["run", "--config", "/etc/run.json", "--set", "run_dir=/runs/x"], Path("/tmp/scratch"))
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[-7:] == ["-m", "trainer", "run", "--config", "/etc/run.json", "--set", "run_dir=/runs/x"]
    assert option(command, "--nnodes") == "1:3"
    assert option(command, "--nproc-per-node") == "2"
    assert option(command, "--rdzv-backend") == "c10d"
    assert option(command, "--rdzv-id") == "small"
    assert option(command, "--local-addr") == "10.0.0.7"
    assert "--standalone" not in command


def test_the_pod_of_index_0_hosts_the_store_at_its_own_address_and_the_others_look_for_its_name() -> None:
    first, second = agent(JOB), agent({**JOB, "JOB_COMPLETION_INDEX": "1", "POD_IP": "10.0.0.8"})
    assert first.rendezvous["is_host"] == "1"
    assert second.rendezvous["is_host"] == "0"
    assert option(first.command([], Path("/tmp")), "--rdzv-endpoint") == "10.0.0.7:29400"
    assert option(second.command([], Path("/tmp")), "--rdzv-endpoint") == "small-0.small:29400"
    assert (first.names, second.names) == ((), ("small-0.small",))


@pytest.mark.parametrize(
    ("pod", "hosts"),
    [("small-worker-0", True), ("small-worker-0.small.svc.cluster.local", True), ("small-worker-1", False)],
)
def test_the_worker_that_the_endpoint_names_hosts_the_store(pod: str, hosts: bool) -> None:
    assert agent({**PYTORCHJOB, "POD_NAME": pod}).hosts_store is hosts


def test_what_the_operator_says_wins_over_ours_but_for_who_hosts_the_store() -> None:
    placement = agent(PYTORCHJOB)
    assert (placement.min_nodes, placement.max_nodes, placement.processes) == (1, 3, 2)
    assert placement.run == "small-0123"
    assert placement.endpoint == ("small-worker-0", 23456)
    assert placement.rendezvous["join_timeout"] == "77"
    assert placement.rendezvous["is_host"] == "0"
    assert Settings.of(PYTORCHJOB, "host").max_restarts == 4


def test_the_agent_s_environment_is_rid_of_what_is_said_to_others_and_makes_joining_work() -> None:
    environment = agent(PYTORCHJOB).environment({**PYTORCHJOB, "RANK": "1", "WORLD_SIZE": "3", "HOME": "/tmp"}, threads=3)
    assert not [name for name in environment if name.startswith("PET_")]
    assert "RANK" not in environment
    assert "WORLD_SIZE" not in environment
    assert environment["HOME"] == "/tmp"
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "25"
    assert environment["OMP_NUM_THREADS"] == "3"


def test_a_replaced_pod_of_a_job_is_the_same_member_although_its_name_changes() -> None:
    members = {Settings.of({**JOB, "POD_NAME": f"small-0-{end}"}, "host").member for end in ("x7k2p", "m3n4b")}
    assert len(members) == 1


def test_mpirun_gets_all_slots_and_each_variable_that_a_process_needs_but_no_value_of_a_secret() -> None:
    hosts = hosts_of("# by the operator\nsmall-worker-0.small slots=2\nsmall-worker-1.small slots=2\n\n")
    placement = placement_of(Settings.of(MPIJOB, "host"), MPIJOB, hosts)
    assert isinstance(placement, MpiLauncher)
    command = placement.command(["run", "--config", "x"], Path("/tmp"))
    assert command[0] == "mpirun"
    assert option(command, "-np") == "4"
    assert option(command, "--hostfile") == "/etc/mpi/hostfile"
    assert command[-6:] == [sys.executable, "-m", "trainer.elastic", "run", "--config", "x"]
    handed_on = {command[number + 1] for number, word in enumerate(command) if word == "-x"}
    assert {"PRETRAIN_RUN_BACKEND", "NCCL_SOCKET_IFNAME", "WANDB_API_KEY", MASTER} <= handed_on
    assert "KUBERNETES_SERVICE_HOST" not in handed_on
    assert "a-secret" not in " ".join(command)
    assert placement.environment(MPIJOB, 1)[MASTER] == "small-worker-0.small:29500"
    assert placement.names == ("small-worker-0.small", "small-worker-1.small")


def test_a_process_of_mpirun_takes_its_place_from_open_mpi_s_variables() -> None:
    environment = {
        **MPIJOB,
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        MASTER: "small-worker-0.small:29500",
    }
    placement = placement_of(Settings.of(environment, "host"), environment, [])
    assert isinstance(placement, MpiRank)
    torch_s = placement.environment(environment, threads=4)
    expected = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "small-worker-0.small",
        "MASTER_PORT": "29500",
    }
    assert expected.items() <= torch_s.items()
    assert placement.command(["run"]) == [sys.executable, "-m", "trainer", "run"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**JOB, "PRETRAIN_RUN_BACKEND": "ray"}, "PRETRAIN_RUN_BACKEND=ray: must be one of pytorchjob, job, mpijob"),
        ({**JOB, "PRETRAIN_RUN_NODES": "3:1"}, "PRETRAIN_RUN_NODES=3:1: must be a number of nodes, or LEAST:MOST"),
        ({**JOB, "PRETRAIN_RUN_PROCESSES": "auto"}, "PRETRAIN_RUN_PROCESSES=auto: must be a whole number of 1 or more"),
        ({**PYTORCHJOB, "PET_NPROC_PER_NODE": "auto"}, "PET_NPROC_PER_NODE=auto: must be a whole number of 1 or more"),
        ({**PYTORCHJOB, "PET_RDZV_BACKEND": "etcd"}, "PET_RDZV_BACKEND=etcd: only c10d is supported"),
        ({**JOB, "PRETRAIN_RUN_RENDEZVOUS": "small-0"}, "PRETRAIN_RUN_RENDEZVOUS=small-0: must be host:port"),
        ({**JOB, "PRETRAIN_RUN_GRACE_S": "soon"}, "PRETRAIN_RUN_GRACE_S=soon: must be a number of seconds above 0"),
        ({**JOB, "JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX is not set"),
        ({**JOB, "POD_NAME": "../x"}, "POD_NAME=../x: is no name of a pod"),
        ({**PYTORCHJOB, "PET_RDZV_CONF": "join_timeout"}, "PET_RDZV_CONF: 'join_timeout' is not key=value"),
        (MPIJOB, "OMPI_MCA_orte_default_hostfile=/etc/mpi/hostfile: names no hosts"),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        placement_of(Settings.of(environment, "host"), environment, [])
    assert message in str(caught.value)


def test_a_new_attempt_has_a_budget_of_its_own() -> None:
    assert Settings.of(JOB, "host").budget == Path("/runs/small/budget/attempt-0")
    assert Settings.of({**JOB, "PRETRAIN_RUN_ATTEMPT": "2"}, "host").budget == Path("/runs/small/budget/attempt-2")


def test_empty_stands_for_no_deadline_and_no_watchdog() -> None:
    settings = Settings.of({**JOB, "PRETRAIN_RUN_DEADLINE_S": "", "PRETRAIN_RUN_WATCHDOG_S": ""}, "host")
    assert (settings.deadline_s, settings.watchdog_s) == (None, None)
    assert Settings.of(JOB, "host").watchdog_s == 1800
