"""Events as lines of RUN/events.jsonl: the log that every other reader starts from."""

import os
from pathlib import Path

from trainer.events import Record
from trainer.files import storage_errors


class JsonLines:
    """Appends each event as one line in one write, so that a kill can tear at most the last line."""

    name = "events.jsonl"

    def __init__(self, path: Path) -> None:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
            if _is_torn(path):
                self._file.write(b"\n")

    def write(self, record: Record) -> None:
        data = record.to_json().encode() + b"\n"
        while data:  # a disk that is nearly full takes a part
            data = data[self._file.write(data) :]

    def close(self) -> None:
        self._file.close()


def _is_torn(path: Path) -> bool:
    """Whether the last line lacks its end."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
