"""Events as lines of RUN/events.jsonl: the log that every other reader starts from."""

import os
from io import FileIO
from pathlib import Path

from trainer.events import Record
from trainer.files import storage_errors


class JsonLines:
    """Appends each event as one line in one write, so that a kill or a full disk can tear at most the last line."""

    name = "events.jsonl"

    def __init__(self, path: Path) -> None:
        """Raises StorageError if there is no place for the file."""
        self._path = path
        self._file: FileIO | None = None
        with storage_errors(path):
            self._open()

    def write(self, record: Record) -> None:
        """Append a line. After an error the file is opened anew at the next call, which ends the torn line first."""
        file = self._file or self._open()
        data = record.to_json().encode() + b"\n"
        try:
            while data:  # a disk that is nearly full takes a part
                data = data[file.write(data) :]
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(self._path, "ab+")
        try:
            if _is_torn(self._path):
                file.write(b"\n")
        except BaseException:
            file.close()
            raise
        self._file = file
        return file


def _is_torn(path: Path) -> bool:
    """Whether the last line lacks its end."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
