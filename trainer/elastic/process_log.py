"""Which of a training process's words go to the terminal, and which to the run's log, under a `trainer run` that watches it.

What the process tells of its training, the first one tells the terminal. How it ended, and whatever libraries and Python say,
stands in RUN/torchrun.log: the `trainer run` above tells the end in one line.
"""

import os
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

LOG_VARIABLE = "PRETRAIN_RUN_PROCESS_LOG"
"""Names the log, in the environment of training processes."""


def divert(environment: Mapping[str, str], *, is_first: bool) -> bool:
    """Send this process's words where they belong. Returns whether somebody above tells how it ended."""
    path = environment.get(LOG_VARIABLE)
    if not path:
        return False
    try:
        log = Path(path).open("a", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115 - open to the end
    except OSError:  # then all goes to the terminal
        return False
    terminal = os.dup(2)
    os.dup2(log.fileno(), 2)  # libraries in C++ write there
    sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding="utf-8", errors="backslashreplace") if is_first else log

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace, file=log)

    sys.excepthook = note
    threading.excepthook = lambda args: note(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    return True


def note_end(text: str) -> None:
    """A line for the log."""
    os.write(2, f"{text}\n".encode(errors="replace"))
