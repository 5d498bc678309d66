"""Token shards on the disk, and rows read from them.

    DATA/tokens/SPLIT/SOURCE-00000.tokens    little-endian uint16 (uint32 above 65,535 ids): an end-of-text, then each
                                             document's ids and an end-of-text
    DATA/tokens/SPLIT/SOURCE-00000.ends      little-endian int64: index behind each document's end-of-text
    DATA/tokens/SPLIT.pieces, SPLIT.rows     the rows as packed (tokens.packing), int64 row starts
    DATA/tokens/manifest.json                counts, tokenizer, size and SHA-256 of every file; written last
    DATA/chat, pairs, prompts                the same for conversations (trainer.tokens.chat_encoding); a file SHARD.mask holds
                                             a bit for each id: whether it counts as a target

Every id but the first of a shard is a target exactly once: position t of a row predicts the id that follows it in its own
document, so the input before a document's first id is the end-of-text that stands in front of it.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.corpus.store import Split
from trainer.errors import ShardError
from trainer.files import record_of, write_json
from trainer.tokens.packing import PIECE, Rows
from trainer.tokens.tokenizer import END_OF_TEXT

MANIFEST = "manifest.json"
IGNORED = -100
"""Target of a position that has none: padding."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Frozen):
    """A file of the token folder."""

    size_bytes: int
    sha256: str


class Shard(_Frozen):
    """One source's part of a split."""

    name: str
    """Path of its files in the token folder, without suffix."""
    source: str
    split: Split
    documents: int
    tokens: int
    """Target tokens: ids less the first one; of conversations only those that count."""
    text_bytes: int
    input_sha256: str
    """The clean text that it was encoded from."""


class SplitRows(_Frozen):
    """How a split is packed into rows."""

    rows: int
    tokens: int
    utilisation: Annotated[float, Field(ge=0, le=1)]
    """Share of the positions that hold a token; the rest is padding."""
    rows_by_source: dict[str, tuple[int, int]]
    """Held-out rows of each source as a range; empty for the training split, whose rows mix sources."""


class TokensManifest(_Frozen):
    """What a token folder holds. Its SHA-256 is the data's fingerprint."""

    format: Literal[1] = 1
    row_tokens: int
    packing: str
    vocab_size: int
    dtype: Literal["<u2", "<u4"]
    tokenizer_sha256: str
    shards: tuple[Shard, ...]
    splits: dict[Split, SplitRows]
    files: dict[str, StoredFile]
    kind: Literal["text", "conversations", "pairs", "prompts"] = "text"
    origin_sha256: str = ""
    """All kinds but text: what they were made from."""
    counts: dict[str, dict[str, int]] = {}
    """All kinds but text, by source: rows read, kept, held out, duplicate, too long, bad."""


def dtype_for(vocab_size: int) -> Literal["<u2", "<u4"]:
    """The narrowest type that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def write_manifest(folder: Path, manifest: TokensManifest) -> None:
    """Write the manifest of a finished token folder."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_manifest(folder: Path) -> TokensManifest:
    """Read a token folder's manifest. Raises ShardError."""
    path = folder / MANIFEST
    try:
        return TokensManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(f"{folder}: no token shards here; run `trainer encode` first") from None
    except ValidationError as error:
        raise ShardError(f"{path}: not a manifest of token shards of this version: {error.errors()[0]['msg']}") from None


def verify_files(folder: Path, manifest: TokensManifest, *, hashes: bool) -> None:
    """Compare sizes, and SHA-256 where `hashes` (about 1 s per GB), with the manifest. Raises ShardError naming the file."""
    way_out = f"remove {folder} and run `trainer encode` again"
    for name, stored in manifest.files.items():
        path = folder / name
        if not path.exists():
            raise ShardError(f"{path}: missing; {way_out}")
        size_bytes = path.stat().st_size
        if size_bytes != stored.size_bytes:
            raise ShardError(f"{path}: {size_bytes} bytes instead of {stored.size_bytes}: truncated or altered; {way_out}")
        if hashes and record_of(path).sha256 != stored.sha256:
            raise ShardError(f"{path}: its SHA-256 is not the manifest's: altered; {way_out}")


def read_array(path: Path, dtype: DTypeLike) -> NDArray[np.generic]:
    """A file as a read-only memory-mapped array; an empty file gives an empty array, which mmap cannot."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


class TokenRows:
    """The rows of one split, read by row id from memory-mapped files."""

    def __init__(self, folder: Path, manifest: TokensManifest, split: Split) -> None:
        """Open the files; sizes are checked, hashes are the caller's business (`verify_files`). Raises ShardError."""
        verify_files(folder, manifest, hashes=False)
        self.manifest = manifest
        self.row_tokens = manifest.row_tokens
        self.info = manifest.splits[split]
        shards = [shard for shard in manifest.shards if shard.split == split]
        self._shards = [read_array(folder / f"{shard.name}.tokens", manifest.dtype) for shard in shards]
        masked = manifest.kind != "text"
        self._masks = [read_array(folder / f"{shard.name}.mask", np.uint8) for shard in shards] if masked else None
        pieces = read_array(folder / f"{split}.pieces", PIECE)
        self.rows = Rows(pieces, read_array(folder / f"{split}.rows", "<i8"))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row_ids: NDArray[np.int64], num_rows: int | None = None) -> tuple[NDArray[np.int64], ...]:
        """Inputs, targets and document numbers of rows, each int64 of shape (num_rows, T).

        Padding has input END_OF_TEXT, target IGNORED and a document number of its own (0; documents count from 1). Where a
        conversation's token does not count, its target is IGNORED, too.
        `num_rows` above the number of ids adds rows of padding, so that a short batch keeps its shape.
        """
        shape = (num_rows or len(row_ids), self.row_tokens)
        inputs = np.full(shape, END_OF_TEXT, np.int64)
        targets = np.full(shape, IGNORED, np.int64)
        documents = np.zeros(shape, np.int64)
        for index, row in enumerate(row_ids.tolist()):
            at = 0
            first, last = self.rows.row_starts[row], self.rows.row_starts[row + 1]
            for number, (shard, start, length) in enumerate(self.rows.pieces[first:last].tolist(), start=1):
                ids = self._shards[shard][start - 1 : start + length]
                inputs[index, at : at + length] = ids[:-1]
                targets[index, at : at + length] = ids[1:] if self._masks is None else self._counted(shard, start, ids[1:])
                documents[index, at : at + length] = number
                at += length
        return inputs, targets, documents

    def _counted(self, shard: int, start: int, ids: NDArray[np.generic]) -> NDArray[np.int64]:
        """Ids from `start` on of a shard, IGNORED where the mask has no bit."""
        assert self._masks is not None
        first, last = start // 8, -(-(start + len(ids)) // 8)
        bits = np.unpackbits(np.asarray(self._masks[shard][first:last], np.uint8), bitorder="little")
        counts = bits[start - 8 * first :][: len(ids)] == 1
        return np.where(counts, ids.astype(np.int64), IGNORED)
