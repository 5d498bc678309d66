"""`python -m trainer.elastic.agent LOG ARGUMENTS`: torchrun, whose own words go to a file.

Torch's agent tells every end of a process in a traceback of its own, which says nothing to somebody who pressed Ctrl-C. The
processes that it starts keep the terminal.
"""

import runpy
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run torch's agent with these arguments behind the first one, the log."""
    log, *rest = arguments
    sys.stderr = Path(log).open("a", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115 - open to the end
    sys.argv = ["torchrun", *rest]
    runpy.run_module("torch.distributed.run", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
