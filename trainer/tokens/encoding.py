"""The stages `tokenizer` and `encode`: train on the clean corpus; encode it in parallel processes; pack it into rows.

Encoding works on one part of the corpus at a time and remembers finished parts, so an interrupted stage goes on where it was.
The bytes written do not depend on the number of processes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial as partial_call
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.config import TokenizerSection, TokensSection
from trainer.cores import cores
from trainer.corpus.normalising import fingerprint
from trainer.corpus.store import SPLITS, Part, Split, read_documents, read_part
from trainer.corpus.store import read_manifest as read_corpus
from trainer.corpus.workers import workers
from trainer.errors import ShardError
from trainer.files import HashingWriter, new_folder, write_json
from trainer.tokens.packing import PIECE, Rows, pack_best_fit, pack_concat
from trainer.tokens.shards import (
    Shard,
    SplitRows,
    StoredFile,
    TokensManifest,
    dtype_for,
    read_array,
    read_manifest,
    write_manifest,
)
from trainer.tokens.tokenizer import (
    END_OF_TEXT,
    TOKENIZER_FILE,
    TextEncoder,
    check_vocabulary,
    save_tokenizer,
    train_tokenizer,
)

Progress = Callable[[int, int], None]
"""Called with text bytes done and text bytes in all."""


def make_tokenizer(config: TokenizerSection, vocab_size: int, corpus: Path, folder: Path) -> tuple[TextEncoder, bool]:
    """Train the tokenizer on the training split, or find it. Returns it and whether it was trained now."""
    file = folder / TOKENIZER_FILE
    if folder.exists():
        encoder = TextEncoder(file)
        check_vocabulary(encoder, vocab_size)
        return encoder, False
    parts = read_corpus(corpus).parts_of("train")
    total_bytes = sum(part.text_bytes for part in parts)
    share = min(1.0, config.max_train_bytes / max(1, total_bytes))
    tokenizer = train_tokenizer(_sampled(corpus, share), vocab_size, config.min_frequency)
    with new_folder(folder) as partial:
        save_tokenizer(tokenizer, partial)
    return TextEncoder(file), True


def _sampled(corpus: Path, share: float) -> Iterator[str]:
    """Training documents, or of a corpus beyond the limit a share of them, chosen by the documents' own hashes."""
    for document in read_documents(corpus, "train"):
        if share >= 1.0 or int.from_bytes(fingerprint(document.text)[8:], "big") < share * 2**64:
            yield document.text


def encode_corpus(
    config: TokensSection, vocab_size: int, corpus: Path, tokenizer: Path, folder: Path, progress: Progress
) -> tuple[TokensManifest, bool]:
    """Encode and pack the corpus, or find it done. Returns the manifest and whether it was made now. Raises ShardError."""
    encoder = TextEncoder(tokenizer / TOKENIZER_FILE)
    check_vocabulary(encoder, vocab_size)
    if folder.exists():
        manifest = read_manifest(folder)
        check_tokens(manifest, encoder, config, folder)
        if [shard.input_sha256 for shard in manifest.shards] != [part.sha256 for part in read_corpus(corpus).parts]:
            raise ShardError(f"{folder}: encoded from another corpus than {corpus}; remove it and run `trainer encode` again")
        return manifest, False
    parts = list(read_corpus(corpus).parts)
    with new_folder(folder, keep_partial=True) as partial:
        shards, files = _encode_parts(parts, corpus, encoder, partial, config.workers, progress)
        splits: dict[Split, SplitRows] = {}
        for split in SPLITS:
            chosen = [shard for shard in shards if shard.split == split]
            documents = [_documents(partial, index, shard) for index, shard in enumerate(chosen)]
            pack = partial_call(pack_best_fit if config.packing == "best_fit" else pack_concat, row_tokens=config.row_tokens)
            splits[split], row_files = pack_split(split, chosen, documents, pack, config.row_tokens, partial)
            files |= row_files
        manifest = TokensManifest(
            row_tokens=config.row_tokens,
            packing=config.packing,
            vocab_size=encoder.vocab_size,
            dtype=dtype_for(encoder.vocab_size),
            tokenizer_sha256=encoder.sha256,
            shards=tuple(shards),
            splits=splits,
            files=files,
        )
        for path in list(partial.rglob("*")):  # notes, and what an interrupted encoding of another corpus left
            if path.is_file() and str(path.relative_to(partial)) not in files:
                path.unlink()
        write_manifest(partial, manifest)
    return manifest, True


def check_tokens(manifest: TokensManifest, encoder: TextEncoder, config: TokensSection, folder: Path) -> None:
    """Raises ShardError or TokenizerError if the shards were made by another tokenizer or for another row length."""
    if manifest.tokenizer_sha256 != encoder.sha256:
        raise ShardError(
            f"{folder}: encoded by tokenizer {manifest.tokenizer_sha256[:12]}, but {encoder.file} is {encoder.sha256[:12]}; "
            f"remove {folder} and run `trainer encode` again"
        )
    for field in ("row_tokens", "packing"):
        there, here = getattr(manifest, field), getattr(config, field)
        if there != here:
            raise ShardError(
                f"{folder}: packed for tokens.{field} {there}, but the config says {here}; "
                f"remove {folder} and run `trainer encode` again"
            )


def _encode_parts(
    parts: list[Part], corpus: Path, encoder: TextEncoder, folder: Path, num_workers: int, progress: Progress
) -> tuple[list[Shard], dict[str, StoredFile]]:
    total_bytes = sum(part.text_bytes for part in parts)
    done_bytes = 0
    results: dict[str, tuple[Shard, dict[str, StoredFile]]] = {}
    jobs = [(part, corpus, encoder.file, folder) for part in parts]
    count = max(1, min(num_workers or cores(), len(parts)))
    with workers(count, "encode", "tokens.workers") as each:
        for part, (shard, files) in zip(parts, each(_encode_part, jobs), strict=True):
            results[part.file] = shard, files
            done_bytes += part.text_bytes
            progress(done_bytes, total_bytes)
    shards = [results[part.file][0] for part in parts]
    return shards, {name: stored for part in parts for name, stored in results[part.file][1].items()}


def _encode_part(job: tuple[Part, Path, Path, Path]) -> tuple[Shard, dict[str, StoredFile]]:
    """Encode one part of the corpus into one shard, unless its note says that this was done before."""
    part, corpus, tokenizer_file, folder = job
    name = part.file.removesuffix(".jsonl.zst")
    note = folder / f"{name}.done"
    encoder = TextEncoder(tokenizer_file)
    if note.exists():
        found = json.loads(note.read_bytes())
        shard = Shard(**found["shard"])
        if shard.input_sha256 == part.sha256 and found["tokenizer_sha256"] == encoder.sha256:
            return shard, {key: StoredFile(**value) for key, value in found["files"].items()}
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    dtype = dtype_for(encoder.vocab_size)
    documents = [np.array([END_OF_TEXT], dtype)]
    documents += [np.array([*encoder.encode(text), END_OF_TEXT], dtype) for text in read_part(corpus, part)]
    ends = np.cumsum([len(ids) for ids in documents], dtype="<i8")[1:]
    files = {}
    for suffix, array in (("tokens", np.concatenate(documents)), ("ends", ends)):
        writer = HashingWriter(folder / f"{name}.{suffix}")
        writer.write(array.tobytes())
        files[f"{name}.{suffix}"] = writer.close()
    shard = Shard(
        name=name,
        source=part.source,
        split=part.split,
        documents=len(ends),
        tokens=int(ends[-1]) - 1,
        text_bytes=part.text_bytes,
        input_sha256=part.sha256,
    )
    stored = {key: StoredFile(**asdict(record)) for key, record in files.items()}
    values = {"shard": shard.model_dump(), "files": {key: value.model_dump() for key, value in stored.items()}}
    write_json(note, values | {"tokenizer_sha256": encoder.sha256})
    return shard, stored


def pack_split(
    split: Split,
    shards: list[Shard],
    documents: list[NDArray[np.void]],
    pack: Callable[[NDArray[np.void]], Rows],
    row_tokens: int,
    folder: Path,
) -> tuple[SplitRows, dict[str, StoredFile]]:
    """Pack each shard's documents into rows and write them; held-out rows are of one source each. Returns what was made."""
    rows_by_source: dict[str, tuple[int, int]] = {}
    if split == "train":
        rows = pack(np.concatenate(documents) if documents else np.empty(0, PIECE))
    else:
        packed, num_rows = [], 0
        for source in dict.fromkeys(shard.source for shard in shards):
            own = [table for shard, table in zip(shards, documents, strict=True) if shard.source == source]
            packed.append(pack(np.concatenate(own)))
            rows_by_source[source] = (num_rows, num_rows + len(packed[-1]))
            num_rows += len(packed[-1])
        rows = Rows.joined(packed)
    files = {}
    for name, array in ((f"{split}.pieces", rows.pieces), (f"{split}.rows", rows.row_starts.astype("<i8"))):
        writer = HashingWriter(folder / name)
        writer.write(array.tobytes())
        files[name] = StoredFile(**asdict(writer.close()))
    used = int(rows.pieces["length"].astype(np.int64).sum())
    utilisation = used / (len(rows) * row_tokens) if len(rows) else 0.0
    tokens = sum(shard.tokens for shard in shards)
    return SplitRows(rows=len(rows), tokens=tokens, utilisation=utilisation, rows_by_source=rows_by_source), files


def _documents(folder: Path, index: int, shard: Shard) -> NDArray[np.void]:
    """A shard's documents as whole pieces."""
    ends = read_array(folder / f"{shard.name}.ends", "<i8").astype(np.int64)
    documents = np.empty(len(ends), PIECE)
    starts = np.concatenate([np.ones(1, np.int64), ends[:-1]])
    documents["shard"], documents["start"], documents["length"] = index, starts, ends - starts
    return documents


def measure_by_source(corpus: Path, encoder: TextEncoder, max_documents: int = 200) -> dict[str, float]:
    """Held-out bytes per token of each source, on its first documents."""
    sums: dict[str, list[int]] = {}
    for document in read_documents(corpus, "held_out"):
        count = sums.setdefault(document.source, [0, 0, 0])
        if count[2] < max_documents:
            count[0] += len(document.text.encode())
            count[1] += len(encoder.encode(document.text))
            count[2] += 1
    return {source: size_bytes / max(1, tokens) for source, (size_bytes, tokens, _) in sums.items()}
