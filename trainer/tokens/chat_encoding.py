"""The part of stage `encode` that makes rows of conversations, of preference pairs and of prompts.

    DATA/chat/     for sft: rows of conversations
    DATA/pairs/    for reward and dpo: rows of pairs, chosen and rejected one after another
    DATA/prompts/  for grpo: a row for each prompt, with the answer that it had

All are token folders like DATA/tokens, with one more file for each shard, SHARD.mask: a bit for each id that says whether it
counts as a target. There is no end-of-text: the first id of a conversation is input only, as it is in a chat.
A conversation or pair longer than a row is left out and counted; of equal ones the first is taken.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.config_section import canonical_json
from trainer.config_tuning import ChatSection, ChatSourceSection
from trainer.corpus.normalising import fingerprint, is_held_out
from trainer.corpus.reading import JSON_LINES, BadLine, files_at
from trainer.corpus.store import SPLITS, Split
from trainer.errors import CorpusError, ShardError
from trainer.files import HashingWriter, new_folder, record_of
from trainer.tokens.chat import ChatIds, Message, render_chat
from trainer.tokens.chat_files import (
    ChatLine,
    Pair,
    Prompt,
    Row,
    RowKind,
    encode_conversation,
    encode_pair,
    encode_prompt,
    read_chat_file,
)
from trainer.tokens.encoding import pack_split
from trainer.tokens.packing import PIECE, Rows, pack_best_fit
from trainer.tokens.shards import Shard, SplitRows, StoredFile, TokensManifest, dtype_for, read_manifest, write_manifest
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder, check_vocabulary

MAX_SHOWN_BAD_LINES = 10


def encode_chats(
    config: ChatSection, row_tokens: int, kind: RowKind, vocab_size: int, tokenizer: Path, folder: Path
) -> tuple[TokensManifest, bool]:
    """Make the rows of all sources of a kind, or find them done. Returns the manifest and whether it was made now.

    Raises CorpusError: missing files, too many bad lines, nothing left; ShardError: a folder made from something else.
    """
    encoder = TextEncoder(tokenizer / TOKENIZER_FILE)
    check_vocabulary(encoder, vocab_size)
    sources = _sources(config, kind)
    origin = _origin(config, sources, by_content=True)
    if folder.exists():
        manifest = read_manifest(folder)
        check_chats(manifest, encoder, row_tokens, kind, folder)
        # rows of an older version know the sizes of their files alone
        if origin is not None and manifest.origin_sha256 not in (origin, _origin(config, sources, by_content=False)):
            raise ShardError(f"{folder}: made from other sources, or by other settings of chat; remove it and encode again")
        return manifest, False
    with new_folder(folder) as partial:
        return _write(config, row_tokens, kind, encoder, origin or "", partial), True


def check_chats(manifest: TokensManifest, encoder: TextEncoder, row_tokens: int, kind: RowKind, folder: Path) -> None:
    """Raises ShardError if the rows were made by another tokenizer, for another length, or are of another kind."""
    way_out = f"remove {folder} and run `trainer encode` again"
    if manifest.tokenizer_sha256 != encoder.sha256:
        theirs, ours = manifest.tokenizer_sha256[:12], encoder.sha256[:12]
        raise ShardError(f"{folder}: encoded by tokenizer {theirs}, but {encoder.file} is {ours}; {way_out}")
    if manifest.row_tokens != row_tokens:
        raise ShardError(f"{folder}: rows of {manifest.row_tokens} tokens, but the config says {row_tokens}; {way_out}")
    if manifest.kind != kind:
        raise ShardError(f"{folder}: holds {manifest.kind}, not {kind}; {way_out}")


def _origin(config: ChatSection, sources: Sequence[ChatSourceSection], *, by_content: bool) -> str | None:
    """What rows are made from: settings and all files; None where no source is left, as it may go once encoded. 1 s per GB."""
    found: list[tuple[str, str, object]] = []
    for source in sources:
        with suppress(CorpusError):
            for file in files_at(source.path, source.name, JSON_LINES):
                found.append((source.name, file.name, record_of(file).sha256 if by_content else file.stat().st_size))
    if not found:
        return None
    settings = {"held_out": config.held_out, "files": found}
    return hashlib.sha256(canonical_json(settings)).hexdigest()


def _write(
    config: ChatSection, row_tokens: int, kind: RowKind, encoder: TextEncoder, origin: str, folder: Path
) -> TokensManifest:
    seen: set[bytes] = set()
    bad_lines: list[BadLine] = []
    counts: dict[str, dict[str, int]] = {}
    writers: list[_ShardWriter] = []
    for source in _sources(config, kind):
        count: Counter[str] = Counter(read=0, kept=0, held_out=0, duplicate=0, too_long=0, bad=0)
        of_split = {split: _ShardWriter(folder, f"{split}/{source.name}", source.name, split, encoder) for split in SPLITS}
        for item in _rows_of(source, kind):
            if isinstance(item, BadLine):
                count["bad"] += 1
                _note_bad_line(item, bad_lines, config.max_bad_lines)
                continue
            count["read"] += 1
            chats = _encoded(item.row, encoder)
            name = fingerprint("\n".join(encoder.decode(chat.ids) for chat in chats))
            if name in seen:
                count["duplicate"] += 1
            elif sum(len(chat.ids) - 1 for chat in chats) > row_tokens:
                count["too_long"] += 1
            else:
                seen.add(name)
                split = split_of(item.row, config.held_out)
                count["held_out" if split == "held_out" else "kept"] += 1
                of_split[split].add(chats)
        counts[source.name] = dict(count)
        writers += [writer for split in SPLITS if (writer := of_split[split]).close()]
    if not any(writer.split == "train" for writer in writers):
        raise CorpusError(_nothing_left(kind, counts, row_tokens))
    return _pack(row_tokens, kind, encoder, origin, counts, writers, folder)


def _nothing_left(kind: RowKind, counts: dict[str, dict[str, int]], row_tokens: int) -> str:
    told = []
    for source, count in counts.items():
        left_out = [f"{count[name]} {name}" for name in ("held_out", "duplicate", "too_long") if count[name]]
        words = [f"{count['read']} rows read: {', '.join(left_out)}"] if count["read"] else []
        words += [f"{count['bad']} lines could not be read"] if count["bad"] else []
        told.append(f"source {source}: {'; '.join(words) or 'its files are empty'}")
    any_long = any(count["too_long"] for count in counts.values())
    way_out = f"raise chat.row_tokens {row_tokens}, or add rows" if any_long else "add rows"
    return f"chat.{kind}: nothing is left to train on: {'; '.join(told)}; {way_out}"


def _pack(
    row_tokens: int,
    kind: RowKind,
    encoder: TextEncoder,
    origin: str,
    counts: dict[str, dict[str, int]],
    writers: "list[_ShardWriter]",
    folder: Path,
) -> TokensManifest:
    files: dict[str, StoredFile] = {}
    splits: dict[Split, SplitRows] = {}
    shards = []
    for split in SPLITS:
        mine = [writer for writer in writers if writer.split == split]
        of_split = [writer.shard(origin) for writer in mine]
        units = [writer.units(index, 2 if kind == "pairs" else 1) for index, writer in enumerate(mine)]
        pieces = [writer.pieces(index) for index, writer in enumerate(mine)]
        pack = _packer(pieces, row_tokens, kind)
        splits[split], made = pack_split(split, of_split, units, pack, row_tokens, folder)
        shards += of_split
        files |= made
        for writer in mine:
            files |= writer.files
    manifest = TokensManifest(
        row_tokens=row_tokens,
        packing="best_fit",
        vocab_size=encoder.vocab_size,
        dtype=dtype_for(encoder.vocab_size),
        tokenizer_sha256=encoder.sha256,
        shards=tuple(shards),
        splits=splits,
        files=files,
        kind=kind,
        origin_sha256=origin,
        counts=counts,
    )
    write_manifest(folder, manifest)
    return manifest


def _packer(pieces: list[NDArray[np.void]], row_tokens: int, kind: RowKind) -> Callable[[NDArray[np.void]], Rows]:
    """Best fit over units (a conversation, or both answers of a pair) whose pieces then stand one after another in the row.

    A prompt has a row of its own: a step counts prompts.
    """
    per_unit = 2 if kind == "pairs" else 1

    def pack(units: NDArray[np.void]) -> Rows:
        rows = Rows(units, np.arange(len(units) + 1)) if kind == "prompts" else pack_best_fit(units, row_tokens)
        chosen = [pieces[shard][start : start + per_unit] for shard, start in rows.pieces[["shard", "start"]].tolist()]
        return Rows(np.concatenate(chosen) if chosen else np.empty(0, PIECE), rows.row_starts * per_unit)

    return pack


@dataclass
class _ShardWriter:
    """Writes the conversations of one source and split."""

    folder: Path
    name: str
    source: str
    split: Split
    encoder: TextEncoder
    lengths: list[int] = field(default_factory=list)
    files: dict[str, StoredFile] = field(default_factory=dict)
    targets: int = 0
    text_bytes: int = 0

    def __post_init__(self) -> None:
        self._tokens: HashingWriter | None = None
        self._mask: HashingWriter | None = None
        self._bits = np.empty(0, np.uint8)
        self._dtype = dtype_for(self.encoder.vocab_size)

    def add(self, chats: Sequence[ChatIds]) -> None:
        """Append conversations that belong together."""
        if self._tokens is None or self._mask is None:
            (self.folder / self.name).parent.mkdir(parents=True, exist_ok=True)
            self._tokens = HashingWriter(self.folder / f"{self.name}.tokens")
            self._mask = HashingWriter(self.folder / f"{self.name}.mask")
        for chat in chats:
            self._tokens.write(np.array(chat.ids, self._dtype).tobytes())
            self._bits = np.concatenate([self._bits, np.array(chat.mask, np.uint8)])
            whole = len(self._bits) // 8 * 8
            self._mask.write(np.packbits(self._bits[:whole], bitorder="little").tobytes())
            self._bits = self._bits[whole:]
            self.lengths.append(len(chat.ids))
            self.targets += sum(chat.mask)
            self.text_bytes += len(self.encoder.decode_bytes(chat.ids))

    def close(self) -> bool:
        """Finish the files; whether anything was written."""
        if self._tokens is None or self._mask is None:
            return False
        self._mask.write(np.packbits(self._bits, bitorder="little").tobytes())
        ends = HashingWriter(self.folder / f"{self.name}.ends")
        ends.write(np.cumsum(self.lengths, dtype="<i8").tobytes())
        for suffix, writer in (("tokens", self._tokens), ("mask", self._mask), ("ends", ends)):
            self.files[f"{self.name}.{suffix}"] = StoredFile(**asdict(writer.close()))
        return True

    def shard(self, origin: str) -> Shard:
        """What the manifest says of it."""
        return Shard(
            name=self.name,
            source=self.source,
            split=self.split,
            documents=len(self.lengths),
            tokens=self.targets,
            text_bytes=self.text_bytes,
            input_sha256=origin,
        )

    def pieces(self, index: int) -> NDArray[np.void]:
        """Its conversations as pieces; the first id of each is no target."""
        pieces = np.empty(len(self.lengths), PIECE)
        lengths = np.array(self.lengths, np.int64)
        pieces["shard"], pieces["start"], pieces["length"] = index, np.cumsum(lengths) - lengths + 1, lengths - 1
        return pieces

    def units(self, index: int, per_unit: int) -> NDArray[np.void]:
        """What has to stay together in a row: where its pieces begin, and how long they are together."""
        lengths = (np.array(self.lengths, np.int64) - 1).reshape(-1, per_unit).sum(axis=1)
        units = np.empty(len(lengths), PIECE)
        units["shard"], units["start"], units["length"] = index, np.arange(len(lengths)) * per_unit, lengths
        return units


def _sources(config: ChatSection, kind: RowKind) -> tuple[ChatSourceSection, ...]:
    sources: tuple[ChatSourceSection, ...] = getattr(config, kind)
    return sources


def _encoded(row: Row, encoder: TextEncoder) -> Sequence[ChatIds]:
    """The conversations of a row."""
    if isinstance(row, Pair):
        return encode_pair(row, encoder)
    return (encode_prompt(row, encoder) if isinstance(row, Prompt) else encode_conversation(row, encoder),)


def _rows_of(source: ChatSourceSection, kind: RowKind) -> Iterator[ChatLine | BadLine]:
    for file in files_at(source.path, f"chat.{kind}: source {source.name}", JSON_LINES):
        yield from read_chat_file(source.name, file, kind)


def split_of(row: Row, held_out_share: float) -> Split:
    """Chosen by the hash of what stands before the last answer alone, so that no question is on both sides."""
    return "held_out" if is_held_out(question_fingerprint(row), held_out_share) else "train"


def question_fingerprint(row: Row) -> bytes:
    """Names what stands before the last answer."""
    return fingerprint(_question(row))


def _question(row: Row) -> str:
    """What stands before the last answer."""
    if isinstance(row, Prompt):
        return render_chat(row.asked).text
    messages: Sequence[Message] = row.chosen if isinstance(row, Pair) else row.conversations
    last = max(place for place, message in enumerate(messages) if message.role == "assistant")
    return render_chat(messages[:last]).text if last else ""


def _note_bad_line(bad: BadLine, bad_lines: list[BadLine], limit: int) -> None:
    bad_lines.append(bad)
    if len(bad_lines) <= MAX_SHOWN_BAD_LINES:
        print(f"{bad.file}:{bad.line}: {bad.reason}", file=sys.stderr)
    if len(bad_lines) > limit:
        first = bad_lines[0]
        raise CorpusError(
            f"chat.max_bad_lines {limit} is passed; the first bad line is {first.file}:{first.line}: {first.reason}"
        )
