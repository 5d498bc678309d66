"""The trainer's image as a cluster runs it: uid 1000, a read-only root, no capabilities."""

import json

import pytest

from k8s.kind.local_cluster import LocalCluster
from tests.kind.stories import IMAGE
from trainer import __version__

pytestmark = [pytest.mark.kind, pytest.mark.timeout(300)]

PROMISED = (
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "tiktoken",
    "zstandard",
    "wandb",
    "prometheus_client",
    "starlette",
    "uvicorn",
    "deepspeed",
)
RESTRICTED = ["--read-only", "--tmpfs=/tmp", "--shm-size=256m", "--user=1000:1000", "--cap-drop=ALL"]


def inside(cluster: LocalCluster, *words: str) -> str:
    """What a command prints in the image, run as a restricted pod."""
    command = ["run", "--rm", *RESTRICTED, "--security-opt=no-new-privileges", f"--entrypoint={words[0]}", IMAGE, *words[1:]]
    return cluster.docker(*command, deadline_s=240.0)


def test_it_imports_what_it_promises(cluster: LocalCluster) -> None:
    lines = "; ".join(f"import {name}" for name in PROMISED)
    said = inside(cluster, "python", "-W", "ignore", "-c", f"{lines}; import trainer.cli; print(torch.__version__)")
    assert said.strip().splitlines()[-1][0].isdigit()


def test_it_runs_as_uid_1000_on_a_read_only_root(cluster: LocalCluster) -> None:
    said = inside(cluster, "sh", "-c", "id -u; touch /opt/x 2>/dev/null || echo read-only; touch /tmp/x && echo scratch")
    assert said.split() == ["1000", "read-only", "scratch"]


def test_two_processes_reach_each_other(cluster: LocalCluster) -> None:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer.training.allreduce"]
    assert "2 processes on cpu reach each other" in inside(cluster, "python", *run)


def test_two_processes_train(cluster: LocalCluster) -> None:
    settings = [
        "name=small",
        "run_dir=/tmp/run",
        "pretrain.steps=2",
        "corpus.sources=[{name: w, path: 'box:wordnet-glosses.jsonl.zst'}]",
    ]
    settings += [
        "model.vocab_size=512",
        "pretrain.schedule.warmup_steps=1",
        "launch.processes=2",
        "stages=[prepare, tokenizer, encode, pretrain]",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    inside(cluster, "python", "-m", "trainer", "run", "--preset", "tiny", *words)


def test_it_brings_mpirun_and_an_sshd_that_needs_no_root(cluster: LocalCluster) -> None:
    assert "Open MPI" in inside(cluster, "mpirun", "--version")
    key = "ssh-keygen -q -t ed25519 -N '' -f /tmp/key && /usr/sbin/sshd -t -f /dev/null -h /tmp/key -p 2222 && echo fine"
    assert "fine" in inside(cluster, "sh", "-c", key)


def test_it_says_what_it_is_and_what_is_in_it(cluster: LocalCluster) -> None:
    labels = json.loads(cluster.docker("image", "inspect", IMAGE, "--format", "{{json .Config.Labels}}"))
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    bill = json.loads(inside(cluster, "cat", "/usr/share/pretrain-run/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"
    assert {"torch", "deepspeed"} <= {component["name"] for component in bill["components"]}
