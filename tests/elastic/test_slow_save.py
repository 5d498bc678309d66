"""`trainer run` gives its processes a minute to save; torch alone would kill them after 30 s."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.data import write_config
from trainer.elastic.child import descendants

pytestmark = [pytest.mark.tuning, pytest.mark.timeout(240)]


def test_a_process_that_takes_35_seconds_to_save_is_not_killed_meanwhile(small_data: Path, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "config.yaml", small_data, stages=["pretrain"], launch={"processes": 2}, pretrain__steps=100_000
    )
    run = tmp_path / "run"
    command = [sys.executable, "-m", "trainer", "run", "--config", str(config)]
    output = tmp_path / "output.txt"
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 100
            while runs.last_step(run) < 5:
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.1)
            slow = runs.events(run, "training_started")[0]["pids"][1]
            os.kill(slow, signal.SIGSTOP)
            process.send_signal(signal.SIGTERM)
            time.sleep(35)
            os.kill(slow, signal.SIGCONT)
            assert process.wait(60) == 143, output.read_text()
        finally:
            for pid in (*descendants(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert runs.newest_step(run) == runs.last_step(run)
    assert "SIGKILL" not in output.read_text()
