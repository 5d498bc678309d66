"""The bytes of a corpus follow from input and settings: not from processes, units, shards, or from where a kill fell."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ranks
from tests.support.raw_text import digests, documents, raw_sources, section, write_lines
from trainer.config_corpus import CorpusSection
from trainer.corpus.account import fate_files
from trainer.corpus.opening import opened
from trainer.corpus.preparing import clean_shard, deduplicate, is_deduplicated, is_written, merge, prepare, write_shard
from trainer.corpus.store import read_documents
from trainer.errors import CorpusError


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return raw_sources(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def undisturbed(sources: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the corpus that one process makes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "corpus"
    manifest, _ = prepare(section(sources), folder)
    lost = {name: sum(counts[name] for counts in manifest.counts.values()) for name in ("duplicate", "near_duplicate", "bad")}
    assert all(lost.values()), lost
    assert manifest.rules["lines"]["too_short"] == 1
    return digests(folder)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_writes_the_same_bytes(
    workers: int, sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    prepare(section(sources, workers=workers), tmp_path / "corpus")
    assert digests(tmp_path / "corpus") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("unit_bytes", [2500, 50_000, 10**9])
def test_units_of_any_size_give_the_same_bytes(
    unit_bytes: int, sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    prepare(section(sources, unit_bytes=unit_bytes), tmp_path / "corpus")
    assert digests(tmp_path / "corpus") == undisturbed


def test_tables_that_go_through_the_disk_give_the_same_bytes(
    sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def many(num_records: int, record_bytes: int, memory_bytes: int) -> int:
        counts.append(num_records)
        return 7

    for module in ("deduplicating", "repeated_lines"):
        monkeypatch.setattr(f"trainer.corpus.{module}.num_partitions", many)
    prepare(section(sources), tmp_path / "corpus")
    assert len(counts) == 3
    assert digests(tmp_path / "corpus") == undisturbed


def test_shards_and_their_merge_write_the_same_bytes_as_one_run(
    sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    config, corpus = section(sources), tmp_path / "corpus"
    assert clean_shard(config, corpus, 1, 2) > 7
    with pytest.raises(
        CorpusError, match=r"units are not cleaned: unit 0 \(a\.jsonl from byte 0\); unit 2 \(a\.jsonl.* more; run"
    ):
        merge(config, corpus)
    assert clean_shard(config, corpus, 0, 2) > 7
    _, made = merge(config, corpus)
    assert made
    assert digests(corpus) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert clean_shard(config, corpus, 0, 2) == 0
    assert merge(config, corpus)[1] is False


@pytest.mark.parametrize("count", [2, 5])
def test_shards_that_write_apart_make_the_same_bytes_as_one_run(
    count: int, sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    config, corpus = section(sources), tmp_path / "corpus"
    assert write_shard(config, corpus, 0, count) == 0, "nothing is known yet of what repeats"
    for index in range(count):
        clean_shard(config, corpus, index, count)
    deduplicate(config, corpus, count)
    assert is_deduplicated(config, corpus)
    written = [write_shard(config, corpus, index, count) for index in reversed(range(1, count))]
    assert min(written) >= 1
    assert not is_written(config, corpus)
    written.append(write_shard(config, corpus, 0, count))
    assert is_written(config, corpus)
    assert sum(written) > 6
    merge(config, corpus)
    assert digests(corpus) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_after_a_kill_only_shares_are_written_again_that_were_not_whole_or_whose_files_were_moved(
    sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    config, corpus, work = section(sources), tmp_path / "corpus", tmp_path / "corpus.work"
    clean_shard(config, corpus, 0, 1)
    deduplicate(config, corpus, 4)
    write_shard(config, corpus, 0, 2)
    first = stamps(work, "written/*/share.json")
    write_shard(config, corpus, 0, 1)
    second = stamps(work, "written/*/share.json")
    assert len(second) > len(first) > 1
    assert first == {name: second[name] for name in first}

    moved = next((work / "written").glob("*/train/*"))
    moved.unlink()
    assert not is_written(config, corpus)
    write_shard(config, corpus, 0, 1)
    third = stamps(work, "written/*/share.json")
    assert [name for name in third if third[name] != second[name]] == [moved.parent.parent.name]
    merge(config, corpus)
    assert digests(corpus) == undisturbed


@pytest.mark.parametrize(("count", "unit_bytes"), [(1, 10**9), (3, 4000), (8, 1000)])
def test_a_mix_that_takes_documents_several_times_is_the_same_however_it_is_shared_out(
    count: int, unit_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies and fates follow each other over the borders of units, shares and files."""
    monkeypatch.setattr("trainer.corpus.account._FATES_IN_A_FILE", 7)
    for name, texts in (("small", documents("s", 40)), ("large", documents("l", 90))):
        write_lines(tmp_path / "raw" / f"{name}.jsonl", texts)
    small = {"name": "small", "path": str(tmp_path / "raw" / "small.jsonl"), "weight": 2, "max_repeats": 3.4}
    large = {"name": "large", "path": str(tmp_path / "raw" / "large.jsonl"), "weight": 1}
    config = section([small, large], unit_bytes=unit_bytes, part_bytes=4000, repeated_lines={})
    corpus = tmp_path / "corpus"
    clean_shard(config, corpus, 0, 1)
    deduplicate(config, corpus, count)
    for index in range(count):
        write_shard(config, corpus, index, count)
    manifest, _ = merge(config, corpus)
    assert [len(ids) for ids in fates(corpus, "small")] == [7, 7, 7, 7, 7, 5]
    in_order = [name for ids in fates(corpus, "small") for name in ids]
    assert in_order == [f"small:small.jsonl:{line}" for line in range(1, 41)]
    sequence = [document.text for document in read_documents(corpus, "train") if document.source == "small"]
    distinct = list(dict.fromkeys(sequence))
    assert manifest.counts["small"]["kept"] == len(distinct)
    again = [[text for text in distinct if sequence.count(text) > turn] for turn in range(4)]
    assert sequence == [text for turn in again for text in turn]
    assert {sequence.count(text) for text in distinct} == {3, 4}
    full = [part.text_bytes for part in manifest.parts if part.split == "train" and part.source == "small"][:-1]
    assert len(full) > 3
    longest = max(len(text.encode()) for text in distinct)
    assert all(config.part_bytes <= size < config.part_bytes + longest for size in full)


def fates(corpus: Path, source: str) -> list[list[str]]:
    """The ids in each file of a source's fates."""
    files = []
    for path in fate_files(corpus, source):
        with opened(path) as stream:
            files.append([json.loads(line)["id"] for line in stream])
    return files


def stamps(work: Path, files: str = "units/*/unit.json") -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in work.glob(files)}


def test_a_unit_is_cleaned_again_only_when_its_input_or_the_settings_changed(tmp_path: Path) -> None:
    config, work = section(raw_sources(tmp_path / "raw")), tmp_path / "corpus.work"
    count = clean_shard(config, tmp_path / "corpus", 0, 1)
    first = stamps(work)
    assert len(first) == count > 15
    clean_shard(config, tmp_path / "corpus", 0, 1)
    assert stamps(work) == first
    changed = tmp_path / "raw" / "texts" / "0" / "000.txt"
    changed.write_text(changed.read_text() + " more", encoding="utf-8")
    clean_shard(config, tmp_path / "corpus", 0, 1)
    second = stamps(work)
    assert len([name for name in second if second[name] != first[name]]) == 1
    clean_shard(config.model_copy(update={"min_chars": 17}), tmp_path / "corpus", 0, 1)
    assert all(stamp != second[name] for name, stamp in stamps(work).items())


def write_config(path: Path, values: CorpusSection) -> Path:
    content = {"run_dir": str(path.parent / "run"), "corpus": values.model_dump(mode="json")}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_processes_of_one_run_clean_a_share_each_and_write_the_same_bytes(
    sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """The first one merges when the others have done their part, and never does it for them."""
    config = write_config(tmp_path / "config.yaml", section(sources))
    ranks.run_trainer("prepare", "--config", str(config), folder=tmp_path, world_size=3)
    assert digests(tmp_path / "run" / "corpus") == undisturbed
    assert not (tmp_path / "run" / "corpus.work").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment_it_goes_on_and_writes_the_same_bytes(
    seed: int, sources: list[dict[str, Any]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Each try is killed a little after it has got further than the one before."""
    chance = random.Random(seed)
    config = write_config(tmp_path / "config.yaml", section(sources, workers=2))
    run = tmp_path / "run"
    goals = sorted(chance.sample(range(1, 40), 2))
    for goal in goals:
        process = ranks.trainer("prepare", "--config", str(config), folder=tmp_path)
        process.wait_for(lambda goal=goal: len(list((run / "corpus.work").glob("*/*/unit.json"))) >= goal)  # type: ignore[misc]
        time.sleep(chance.random() * 0.05)
        process.signal(signal.SIGKILL, 0)  # the first process alone: the others end by themselves
        process.kill()
    assert stamps(run / "corpus.work") or (run / "corpus").exists()
    ranks.run_trainer("prepare", "--config", str(config), folder=tmp_path)
    assert digests(run / "corpus") == undisturbed
    deadline = time.monotonic() + 30
    while list(run.glob("corpus.*")):
        assert time.monotonic() < deadline, list(run.rglob("*"))
        time.sleep(0.1)
