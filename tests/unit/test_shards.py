"""Token shards are those of the config, the corpus and the tokenizer at hand, or the stage says why not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.config import CorpusSection, SourceSection, TokensSection
from trainer.corpus.preparing import prepare
from trainer.corpus.store import read_manifest as read_corpus
from trainer.corpus.store import read_part
from trainer.errors import CorpusError, ShardError, TokenizerError
from trainer.tokens.encoding import encode_corpus
from trainer.tokens.shards import IGNORED, TokenRows, TokensManifest, read_manifest, verify_files
from trainer.tokens.tokenizer import END_OF_TEXT, TOKENIZER_FILE, TextEncoder, save_tokenizer, train_tokenizer

TEXTS = [
    f"{number} {'the quick brown fox jumps over the lazy dog ' * (number % 7)}床前明月光 {number * 7}" for number in range(120)
]
VOCAB_SIZE = 400


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, VOCAB_SIZE, 2), folder)
    return folder


def make_corpus(folder: Path, texts: list[str], **fields: Any) -> Path:
    """A clean corpus of two sources, in several parts."""
    raw = folder.with_name(folder.name + "-raw")
    raw.mkdir(exist_ok=True)
    sources = []
    for name, chosen in (("a", texts[::2]), ("b", texts[1::2])):
        (raw / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in chosen), encoding="utf-8")
        sources.append(SourceSection(name=name, path=str(raw / f"{name}.jsonl")))
    values = {"held_out": 0.2, "part_bytes": 4000, **fields}
    prepare(CorpusSection(sources=tuple(sources), **values), folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", TEXTS)


def encode(
    corpus: Path, tokenizer: Path, folder: Path, vocab_size: int = VOCAB_SIZE, **fields: Any
) -> tuple[TokensManifest, bool]:
    section = TokensSection.model_validate({"row_tokens": 32, "workers": 1, **fields})
    return encode_corpus(section, vocab_size, corpus, tokenizer, folder, lambda *_: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def all_ids(rows: TokenRows) -> list[int]:
    """All target ids of a split, in the order of shards and places."""
    _, targets, _ = rows.read(np.arange(len(rows)))
    at = []
    for row in range(len(rows)):
        offset = 0
        for shard, start, length in rows.rows.pieces[rows.rows.row_starts[row] : rows.rows.row_starts[row + 1]].tolist():
            at += [(shard, start + place, int(targets[row, offset + place])) for place in range(length)]
            offset += length
        assert (targets[row, offset:] == IGNORED).all()
    return [token for _, _, token in sorted(at)]


def test_targets_by_document_are_the_clean_text_and_an_end_of_text(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    manifest, made = encode(corpus, tokenizer, tmp_path / "tokens")
    assert made
    encoder = TextEncoder(tokenizer / TOKENIZER_FILE)
    for split in ("train", "held_out"):
        rows = TokenRows(tmp_path / "tokens", manifest, split)  # type: ignore[arg-type]
        parts = read_corpus(corpus).parts_of(split)  # type: ignore[arg-type]
        texts = [text for part in parts for text in read_part(corpus, part)]
        ids = all_ids(rows)
        assert ids.count(END_OF_TEXT) == len(texts)
        assert encoder.decode(ids).split("<|endoftext|>") == [*texts, ""]
        assert rows.info.tokens == len(ids)
        assert rows.info.utilisation == pytest.approx(len(ids) / (32 * len(rows)))


def test_held_out_rows_hold_one_source_each_and_are_listed_by_it(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    manifest, _ = encode(corpus, tokenizer, tmp_path / "tokens")
    rows = TokenRows(tmp_path / "tokens", manifest, "held_out")
    shards = [shard for shard in manifest.shards if shard.split == "held_out"]
    covered = []
    for source, (first, last) in manifest.splits["held_out"].rows_by_source.items():
        pieces = rows.rows.pieces[rows.rows.row_starts[first] : rows.rows.row_starts[last]]
        assert {shards[shard].source for shard in pieces["shard"].tolist()} == {source}
        covered += range(first, last)
    assert covered == list(range(len(rows)))
    assert manifest.splits["train"].rows_by_source == {}


def test_found_done_it_is_not_made_again(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    manifest, _ = encode(corpus, tokenizer, tmp_path / "tokens")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*")}
    assert encode(corpus, tokenizer, tmp_path / "tokens") == (manifest, False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*")} == before


def test_another_tokenizer_or_row_length_is_named_with_the_way_out(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    encode(corpus, tokenizer, folder)
    with pytest.raises(ShardError, match=rf"packed for tokens\.row_tokens 32, but the config says 64; remove {folder} and run"):
        encode(corpus, tokenizer, folder, row_tokens=64)
    save_tokenizer(train_tokenizer(TEXTS[:50], VOCAB_SIZE - 20, 2), tmp_path / "other")
    with pytest.raises(ShardError, match=rf"encoded by tokenizer \w{{12}}, but .* is \w{{12}}; remove {folder} and run"):
        encode(corpus, tmp_path / "other", folder)
    with pytest.raises(TokenizerError, match=r"but model\.vocab_size is 300"):
        encode(corpus, tokenizer, folder, vocab_size=300)


def test_shards_of_another_packing_are_not_taken_for_this_config_s(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    """`tokens.packing` is part of the run's identity, so rows packed the other way are another run's data."""
    encode(corpus, tokenizer, tmp_path / "tokens", packing="best_fit")
    with pytest.raises(ShardError, match=r"tokens\.packing"):
        encode(corpus, tokenizer, tmp_path / "tokens", packing="concat")


def test_shards_of_a_corpus_made_anew_are_not_taken_for_this_one_s(tokenizer: Path, tmp_path: Path) -> None:
    """`prepare` says of changed input to remove the corpus folder; tokens of the old text then must not pass for the new."""
    encode(make_corpus(tmp_path / "1", TEXTS), tokenizer, tmp_path / "tokens")
    changed = make_corpus(tmp_path / "2", [*TEXTS, "a new document that was not there before"])
    with pytest.raises(ShardError, match="corpus"):
        encode(changed, tokenizer, tmp_path / "tokens")


def interrupt(corpus: Path, tokenizer: Path, folder: Path, after_parts: int) -> Path:
    """Encode until so many parts are done, then stop as a kill would: the partial folder stays."""

    class Killed(BaseException):
        pass

    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == after_parts:
            raise Killed

    with pytest.raises(Killed):
        encode_corpus(TokensSection(row_tokens=32, workers=1), VOCAB_SIZE, corpus, tokenizer, folder, progress)
    return folder.with_name(folder.name + ".partial")


def test_interrupted_at_any_part_it_goes_on_and_gives_the_same_bytes(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    encode(corpus, tokenizer, tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    num_parts = len(read_corpus(corpus).parts)
    assert num_parts >= 4
    for after in range(1, num_parts + 1):
        folder = tmp_path / f"cut-{after}"
        partial = interrupt(corpus, tokenizer, folder, after)
        stamps = {path.relative_to(partial): path.stat().st_mtime_ns for path in partial.rglob("*.tokens")}
        assert len(stamps) == after
        encode(corpus, tokenizer, folder)
        assert contents(folder) == wanted
        assert {name: (folder / name).stat().st_mtime_ns for name in stamps} == stamps
        assert not partial.exists()


def test_a_part_without_its_note_is_encoded_again(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    encode(corpus, tokenizer, tmp_path / "whole")
    partial = interrupt(corpus, tokenizer, tmp_path / "cut", 2)
    note = sorted(partial.rglob("*.done"))[0]
    note.unlink()
    note.with_suffix(".tokens").write_bytes(b"half of it")  # what a kill amid the write leaves
    encode(corpus, tokenizer, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_leftovers_of_another_corpus_do_not_stay_in_the_folder(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    encode(corpus, tokenizer, tmp_path / "whole")
    more = make_corpus(tmp_path / "more", [*TEXTS, *(f"{text} and more" for text in TEXTS)], part_bytes=1500)
    interrupt(more, tokenizer, tmp_path / "cut", len(read_corpus(more).parts))
    encode(corpus, tokenizer, tmp_path / "cut")
    assert contents(tmp_path / "cut").keys() == contents(tmp_path / "whole").keys()


def test_the_manifest_names_every_file_and_each_is_as_it_says(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    manifest, _ = encode(corpus, tokenizer, tmp_path / "tokens")
    assert contents(tmp_path / "tokens").keys() == {*manifest.files, "manifest.json"}
    verify_files(tmp_path / "tokens", manifest, hashes=True)


def test_a_flipped_bit_in_any_file_is_found_and_named(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    manifest, _ = encode(corpus, tokenizer, folder)
    for name in manifest.files:
        file = folder / name
        good = file.read_bytes()
        if good:
            file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
            with pytest.raises(ShardError, match=rf"^{file}: its SHA-256 is not the manifest's: altered; remove {folder}"):
                verify_files(folder, manifest, hashes=True)
            file.write_bytes(good[:-1])
            with pytest.raises(ShardError, match=rf"^{file}: {len(good) - 1} bytes instead of {len(good)}: truncated"):
                TokenRows(folder, manifest, "train")
            file.unlink()
            with pytest.raises(ShardError, match=rf"^{file}: missing; remove {folder}"):
                TokenRows(folder, manifest, "train")
        file.write_bytes(good)
    verify_files(folder, manifest, hashes=True)


def test_a_damaged_manifest_is_named(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    encode(corpus, tokenizer, tmp_path / "tokens")
    file = tmp_path / "tokens" / "manifest.json"
    for damage in (file.read_bytes()[:100], b"{}", b"\xff", b""):
        file.write_bytes(damage)
        with pytest.raises(ShardError, match=rf"^{file}: not a manifest of token shards of this version"):
            read_manifest(tmp_path / "tokens")


def test_a_clean_part_that_was_exchanged_is_not_encoded(tokenizer: Path, tmp_path: Path) -> None:
    """read_part: "Raises CorpusError if the file is not the one in the manifest"."""
    corpus = make_corpus(tmp_path / "corpus", TEXTS)
    other = make_corpus(tmp_path / "other", TEXTS[:40])
    part = read_corpus(corpus).parts[0]
    (corpus / part.file).write_bytes((other / read_corpus(other).parts[0].file).read_bytes())
    with pytest.raises(CorpusError):
        encode(corpus, tokenizer, tmp_path / "tokens")


def test_large_vocabularies_are_stored_in_four_bytes(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    """A vocabulary above 65,536 ids, without training one: the same tokenizer with unused added tokens."""
    content = json.loads((tokenizer / TOKENIZER_FILE).read_text(encoding="utf-8"))
    like = content["added_tokens"][0]
    size = len(content["model"]["vocab"])
    content["added_tokens"] += [like | {"id": number, "content": f"<|{number}|>"} for number in range(size, 65_537)]
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / TOKENIZER_FILE).write_text(json.dumps(content), encoding="utf-8")
    small, _ = encode(corpus, tokenizer, tmp_path / "small-tokens")
    large, _ = encode(corpus, tmp_path / "large", tmp_path / "large-tokens", vocab_size=70_000)
    assert (small.dtype, large.dtype) == ("<u2", "<u4")
    assert (small.vocab_size, large.vocab_size) == (size, 65_537)
    rows = [
        TokenRows(tmp_path / f"{name}-tokens", manifest, "train") for name, manifest in (("small", small), ("large", large))
    ]
    assert all_ids(rows[0]) == all_ids(rows[1])
