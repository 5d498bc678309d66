"""Events as lines of RUN/events.jsonl: the log that every other reader starts from."""

from pathlib import Path

from trainer.events import Record
from trainer.files import LineFile


class JsonLines:
    """Appends each event as one line."""

    name = "events.jsonl"

    def __init__(self, path: Path) -> None:
        """Raises StorageError if there is no place for the file."""
        self._file = LineFile(path)

    def write(self, record: Record) -> None:
        """Append a line. Raises OSError; the next call tries anew."""
        self._file.append(record.to_json().encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
