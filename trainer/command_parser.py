"""What the trainer's and the launcher's command lines have in common: one parser, one way to end, one way to complete.

A mistake ends with one line on stderr and exit code 2. Options may be written with dashes or underscores.
"""

import argparse
import difflib
import errno
import io
import math
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn, TextIO

from trainer import __version__
from trainer.errors import StorageError, TrainerError, UsageError
from trainer.extras import missing, missing_package

SHELLS = ("bash", "zsh", "tcsh")
_INVALID_CHOICE = re.compile(r"(?:argument (?P<what>\S+): )?invalid choice: '?(?P<given>.*?)'? \(choose from (?P<known>.*)\)")


class Parser(argparse.ArgumentParser):
    """Ends with one line on stderr and exit code 2, and says what may have been meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = [self._spelled(text) for text in (sys.argv[1:] if args is None else args)]
        if self._subparsers is None:
            self._check_names(given)
        options, rest = super().parse_known_args(given, namespace)
        if rest:  # of this very command: the whole command line's own parser would not know its options
            self._refuse(rest)
        return options, rest

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {self._plain(message)}; see {self.prog} --help", file=sys.stderr)
        sys.exit(UsageError.exit_code)

    def _check_names(self, given: Sequence[str]) -> None:
        """Before argparse takes the value of an unknown option for something else."""
        for text in given:
            if text == "--":
                return
            name = text.partition("=")[0]
            if name.startswith("--") and not any(option.startswith(name) for option in self._option_string_actions):
                self._refuse([text])

    def _spelled(self, text: str) -> str:
        """An option by the name under which this parser knows it."""
        name, equals, value = text.partition("=")
        known = self._option_string_actions
        if not name.startswith("--") or name in known:
            return text
        for other in (name.replace("_", "-"), name.replace("-", "_")):
            other = f"--{other[2:]}"
            if other in known:
                return f"{other}{equals}{value}"
        return text

    def _refuse(self, rest: Sequence[str]) -> NoReturn:
        name = rest[0].partition("=")[0]
        if not name.startswith("-"):
            self.error(f"{_shown(name)} is one argument too many")
        known = [option for option in self._option_string_actions if option.startswith("--")]
        self.error(f"{_shown(name)} is no option here" + _did_you_mean(name.replace("_", "-"), known))

    def _plain(self, message: str) -> str:
        found = _INVALID_CHOICE.fullmatch(message)
        if found is None:
            return message
        known = [name.strip(" '") for name in found["known"].split(",")]
        if found["what"] == "COMMAND":
            return f"{_shown(found['given'])} is no command" + _did_you_mean(found["given"], known)
        what = f"{found['what']}: " if found["what"] else ""
        close = _did_you_mean(found["given"], known)
        return f"{what}{_shown(found['given'])} is not one of {', '.join(known)}{close}"


def _did_you_mean(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def add_basics(parser: argparse.ArgumentParser) -> None:
    """What a command line has beside its commands."""
    parser.add_argument("--version", "-V", action="version", version=f"{parser.prog} {__version__}")


def add_completion(commands: Any) -> None:
    """The command `completion`, which `completion_script` does."""
    text = "print a script by which the shell completes commands and options"
    command = commands.add_parser("completion", help=text, description=f'{text}: eval "$(COMMAND completion bash)"')
    command.add_argument("shell", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for the shell, made by shtab from the parser. Raises MissingDependencyError."""
    try:
        shtab = import_module("shtab")
    except ModuleNotFoundError:
        raise missing("shtab", "completion") from None
    script: str = shtab.complete(parser, shell)
    return script


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A type of arguments: whole numbers within limits."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least or (most is not None and int(text) > most):
            limits = f"from {least} to {most}" if most is not None else f"of {least} or more"
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number {limits}")
        return int(text)

    return read


def seconds(text: str) -> float:
    """A type of arguments: a duration above 0."""
    with suppress(ValueError):
        if math.isfinite(value := float(text)) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number of seconds above 0")


def unicode_text(text: str) -> str:
    """A type of arguments: what the shell gave as UTF-8."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        raise argparse.ArgumentTypeError("is not UTF-8 text; convert it (iconv), or set the terminal to UTF-8") from None


@contextmanager
def any_terminal() -> Iterator[None]:
    """Text of any language goes to any terminal, and a reader that leaves (`| head`) gets no traceback.

    What an ASCII terminal cannot show is written as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):
        ascii_only = (sys.stdin.encoding or "").lower().replace("_", "-") in ("ascii", "us-ascii", "ansi-x3.4-1968", "646")
        sys.stdin.reconfigure(encoding="utf-8" if ascii_only else None, errors="replace")
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unwritable(sys.stdout):
            raise  # of another pipe
        _to_nowhere(sys.stdout)
    except BaseException:
        if _is_unwritable(sys.stdout):
            _to_nowhere(sys.stdout)
        raise


def told(raised: BaseException) -> TrainerError | None:
    """The error that a user is told instead of a traceback; None: a fault of this project, which needs the traceback."""
    if isinstance(raised, TrainerError):
        return raised
    if isinstance(raised, ModuleNotFoundError):
        return missing_package(raised)
    if isinstance(raised, OSError) and raised.filename is not None:
        return StorageError(f"{raised.filename}: {raised.strerror or raised}")
    if isinstance(raised, OSError) and raised.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(f"standard output or a file cannot be written: {raised.strerror}")
    return None


def say(text: str) -> None:
    """A line to stderr, if somebody reads it."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _is_unwritable(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    try:
        stream.flush()
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))  # the reader of a pipe is gone
    except io.UnsupportedOperation:
        return False
    except (OSError, ValueError):
        return True


def _to_nowhere(stream: TextIO | None) -> None:
    """What is still to be flushed at Python's end shall not raise then."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)
