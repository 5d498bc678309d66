"""`python -m tests.support.limited MEGABYTES SECONDS FUNCTION ARGUMENT`: a function of the tests under real limits.

The process may address so much memory beyond what its imports take, and use so many seconds of a core; its result is
printed as JSON.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def call(function: Callable[[str], Any], argument: str, megabytes: int, seconds: int) -> Any:
    """The result of `function(argument)` in a process with these limits. Fails with what the process said."""
    name = f"{function.__module__}:{function.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.limited", str(megabytes), str(seconds), name, argument],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def _main() -> None:
    megabytes, seconds, name, argument = sys.argv[1:]
    module, _, function = name.partition(":")
    work = getattr(importlib.import_module(module), function)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (int(megabytes) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(spent.ru_utime + spent.ru_stime) + int(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    print(json.dumps(work(argument)))


if __name__ == "__main__":
    _main()
