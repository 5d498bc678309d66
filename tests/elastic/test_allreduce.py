"""What `helm test` runs in the image of a run."""

import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(120)
def test_two_processes_reach_each_other() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "trainer.training.allreduce"]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "allreduce: 2 processes on cpu reach each other\n"
