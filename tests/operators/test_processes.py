"""Processes of the control plane never outlive the test that started them, and a failed start says why."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.operators.processes import NotReadyError, Server, wait_until

pytestmark = pytest.mark.operators

DEADLINE_S = 20.0

_STARTS_ONE_AND_WAITS = """
import sys, time
from pathlib import Path
from tests.operators.processes import Server
server = Server("sleeper", ["/bin/sleep", "600"], {}, Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_servers_die_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STARTS_ONE_AND_WAITS, str(tmp_path / "log")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        comm = Path(f"/proc/{pid}/comm")
        wait_until(lambda: comm.read_text() == "sleep\n", "the sleeper runs", DEADLINE_S)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not comm.exists() or comm.read_text() != "sleep\n", "the sleeper's end", DEADLINE_S)


def test_server_that_ends_while_it_is_waited_for_shows_its_log(tmp_path: Path) -> None:
    server = Server("broken", ["/bin/sh", "-c", "echo the disk is gone; exit 3"], {}, tmp_path / "log")
    server.start()
    with pytest.raises(NotReadyError, match=r"(?s)broken ended with code 3.*the disk is gone"):
        server.wait_until(lambda: False, "never", DEADLINE_S)


def test_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = Server("stubborn", ["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], {}, log)
    server.start()
    server.wait_until(lambda: "up" in server.tail(), "up", DEADLINE_S)
    server.stop(deadline_s=0.2)
    assert not server.running
