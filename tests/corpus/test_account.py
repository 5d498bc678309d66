"""Every document has a fate: counts add up, ids tell a story, and the report shows all of it as text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ranks
from tests.support.raw_text import documents, raw_sources, section, write_lines
from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.account import Account, fate_files, read_account
from trainer.corpus.explaining import explain
from trainer.corpus.mixing import copies, repeats_by_source
from trainer.corpus.normalising import fingerprint, is_held_out
from trainer.corpus.opening import opened
from trainer.corpus.preparing import prepare
from trainer.corpus.store import read_documents, read_manifest
from trainer.errors import CorpusError
from trainer.tracking.report_corpus import corpus as corpus_section


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean corpus of two sources with everything in it that can become of a document."""
    folder = tmp_path_factory.mktemp("account")
    prepare(section(raw_sources(folder / "raw")), folder / "corpus")
    return folder / "corpus"


def account_of(corpus: Path) -> Account:
    account = read_account(corpus)
    assert account is not None
    return account


def fates(corpus: Path) -> list[dict[str, Any]]:
    found = []
    for source in read_manifest(corpus).counts:
        for file in fate_files(corpus, source):
            with opened(file) as stream:
                found += [json.loads(line) for line in stream]
    return found


def test_every_document_has_one_fate_and_the_counts_are_those_of_the_fates(corpus: Path) -> None:
    told = fates(corpus)
    assert len({fate["id"] for fate in told}) == len(told) == 121 + 30 + 2 + 45
    account = account_of(corpus)
    for name, source in account.sources.items():
        own = [fate for fate in told if fate["id"].startswith(f"{name}:")]
        assert source.counts["read"] + source.counts["bad"] == len(own)
        assert source.counts["kept"] == sum(fate["fate"] == "train" for fate in own)
        assert source.counts["held_out"] == sum(fate["fate"] == "held_out" for fate in own)
        rules = [fate["rule"] for fate in own if fate["fate"] == "dropped"]
        assert source.rules == {rule: rules.count(rule) for rule in sorted(set(rules))}
        left = sum(source.counts[kind] for kind in source.counts if kind not in ("read", "bad"))
        assert source.counts["read"] == left
        assert sum(source.lengths.values()) == source.counts["kept"] + source.counts["held_out"]
    assert account.sources["lines"].counts == read_manifest(corpus).counts["lines"]
    assert account.sources["lines"].changes["repeated_lines"] > 50


def test_each_document_is_in_the_part_that_its_fate_names(corpus: Path) -> None:
    in_parts = {part.file: part.documents for part in read_manifest(corpus).parts}
    named = [fate["part"] for fate in fates(corpus) if "part" in fate]
    assert {part: named.count(part) for part in set(named)} == in_parts


def test_ids_name_the_line_of_the_file_though_the_file_was_read_in_ranges(corpus: Path) -> None:
    told = {fate["id"]: fate for fate in fates(corpus)}
    assert told["lines:a.jsonl:121"]["rule"] == "too_short"
    assert told["lines:a.jsonl:122"]["rule"] == "read.no_text"
    assert told["lines:a.jsonl:123"]["rule"] == "read.not_json"
    assert told["lines:a.jsonl:9"]["of"] == "lines:a.jsonl:5"
    assert "texts:3/039.txt:1" in told


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "lines:a.jsonl:1",
            r"characters, language en\n  changed: redaction.email.*\n  changed: repeated_lines, 1.*\n  kept for training: t",
        ),
        ("lines:a.jsonl:121", r"left out by too_short: 5 characters; corpus.min_chars is 16\n  it began: \"short\""),
        (
            "lines:a.jsonl:9",
            r"left out by duplicate: equal to lines:a.jsonl:5\n\nlines:a.jsonl:5\n(.*\n)+  (kept|held out) for",
        ),
        ("lines:a.jsonl:11", r"left out by near_duplicate: in the cluster of lines:a.jsonl:6; similarity to it 0\.9"),
        ("texts:4/040.txt:1", r"left out by duplicate: equal to lines:a.jsonl:1\n"),
        ("lines:a.jsonl:123", r"left out by read.not_json: not JSON"),
    ],
)
def test_explain_tells_the_story_of_one_document(name: str, wanted: str, corpus: Path) -> None:
    assert re.search(wanted, "\n".join(explain(corpus, name))), explain(corpus, name)


def test_explain_names_the_way_out_for_an_id_that_is_none(corpus: Path) -> None:
    with pytest.raises(CorpusError, match="no source poems; an id is SOURCE:FILE:LINE, of one of the sources lines, texts"):
        explain(corpus, "poems:1")
    with pytest.raises(CorpusError, match=r"lines has no such document; its first one is lines:a\.jsonl:1$"):
        explain(corpus, "lines:a.jsonl:9999")


def test_the_command_line_cleans_shards_merges_and_explains(tmp_path: Path) -> None:
    values = section(raw_sources(tmp_path / "raw")).model_dump(mode="json")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "corpus": values}))
    command = ("prepare", "--config", str(config))
    assert "shard 1/2" in ranks.run_trainer(*command, "--shard", "1/2", folder=tmp_path)
    process = ranks.trainer(*command, "--merge", folder=tmp_path)
    assert process.wait() == [65]
    assert "units are not cleaned: unit 1 (a.jsonl from byte 6,000)" in process.text()
    ranks.run_trainer(*command, "--shard", "2/2", folder=tmp_path)
    ranks.run_trainer(*command, "--merge", folder=tmp_path)
    assert "done before" in ranks.run_trainer(*command, folder=tmp_path)
    assert "equal to lines:a.jsonl:5" in ranks.run_trainer(*command, "--explain", "lines:a.jsonl:9", folder=tmp_path)
    wrong = ranks.trainer(*command, "--shard", "3/2", folder=tmp_path)
    assert wrong.wait() == [2]
    ranks.run_trainer("report", "--config", str(config), folder=tmp_path)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Documents left after each step" in page


def test_near_duplicates_of_held_out_documents_are_not_in_training(corpus: Path) -> None:
    told = {fate["id"]: fate for fate in fates(corpus)}
    repeated = [fate for fate in told.values() if fate.get("rule") == "near_duplicate"]
    assert len(repeated) > 5
    assert all(told[fate["of"]]["fate"] in ("train", "held_out") for fate in repeated)
    held_out = {document.text for document in read_documents(corpus, "held_out")}
    assert held_out
    assert not held_out & {document.text for document in read_documents(corpus, "train")}


# --- mixing -----------------------------------------------------------------------------------------------------------


def test_weights_hold_and_the_source_that_reaches_its_limit_sets_the_amount(tmp_path: Path) -> None:
    for name, count in (("small", 60), ("large", 400)):
        write_lines(tmp_path / f"{name}.jsonl", (f"{name} document number {number:05d}" for number in range(count)))
    sources = [
        {"name": "small", "path": str(tmp_path / "small.jsonl"), "weight": 1, "max_repeats": 2.5},
        {"name": "large", "path": str(tmp_path / "large.jsonl"), "weight": 2},
    ]
    config = CorpusSection.model_validate({"sources": sources, "held_out": 0.1})
    manifest, _ = prepare(config, tmp_path / "corpus")
    account = account_of(tmp_path / "corpus")
    small, large = account.sources["small"], account.sources["large"]
    assert (small.repeats, large.repeats < 1) == (2.5, True)
    assert 0.8 < large.train_bytes / (2 * small.train_bytes) < 1.2
    assert large.counts["unmixed"] == large.rules["mix"] > 50
    texts = [document.text for document in read_documents(tmp_path / "corpus", "train") if document.source == "small"]
    assert {texts.count(text) for text in texts} == {2, 3}
    distinct = len(set(texts))
    assert len(set(texts[:distinct])) == distinct, "copies of a document stand far from each other"
    for text in set(texts):
        name = fingerprint(text)
        assert texts.count(text) == copies(name, 2.5)
        assert not is_held_out(name, 0.1)
    assert manifest.counts["small"]["kept"] == distinct


def test_without_weights_every_source_is_taken_once() -> None:
    config = CorpusSection(sources=(SourceSection(name="a", path="a"), SourceSection(name="b", path="b")))
    assert repeats_by_source(config, {"a": 10, "b": 1000}) == {"a": 1.0, "b": 1.0}


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_funnel_lengths_languages_rules_and_clusters(corpus: Path) -> None:
    page = corpus_section(account_of(corpus))
    for words in (
        "Documents left after each step",
        "Length of the documents",
        "Languages",
        "too_short: 1 document",
        "no near-dup",
    ):
        assert words in page
    assert re.search(r"<summary>\d+ documents like lines:a.jsonl:\d+</summary>", page)
    assert "Changed in documents that stayed" in page
    assert corpus_section(None) == ""


def test_texts_of_documents_show_as_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    texts = documents("x", 9)
    write_lines(tmp_path / "a.jsonl", [f"{evil} {texts[0]}", f"{evil} {texts[0]} and", *texts, "<b>", "\x00\ufffe"])
    prepare(section([{"name": "a", "path": str(tmp_path / "a.jsonl")}], repeated_lines={}), tmp_path / "corpus")
    page = corpus_section(account_of(tmp_path / "corpus"))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 2
    page.encode()


def test_all_steps_together_account_for_real_kinds_of_text(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    prose = "The old mill stands between the river and the bridge, and nobody has counted its stones. " * 8
    letter = f"<p>{prose} Write to seven@river-mill.net.</p>"
    page = f"<html><body><nav><a href=/>Home</a></nav><article>{letter}</article></body></html>"
    (raw / "a.html").write_text(page, encoding="utf-8")
    chinese = "水磨坊在河边，灯光在石头之间行走，没有人数过桥下慢慢的船。"
    (raw / "b.txt").write_bytes((chinese * 8).encode("gb18030"))
    (raw / "c.txt").write_text(
        "Die alte Mühle steht zwischen dem Fluss und der Brücke, und niemand hat die Steine gezählt. " * 8
    )
    (raw / "d.md").write_text("The river runs between the old mill and the bridge, where nobody counts the stones.")
    no_ngrams = {"max_duplicate_ngrams": [], "max_top_ngrams": []}  # the texts repeat a sentence
    steps = {
        "repair": True,
        "language": {"identify": True, "keep": ["en", "zh"]},
        "quality": {"english": "gopher", "chinese": "web", "repetition": no_ngrams, "han": {"repetition": no_ngrams}},
        "redaction": {"replace": ["email"]},
    }
    values = {"sources": [{"name": "web", "path": str(raw)}], "steps": steps, "held_out": 0.0001}
    prepare(CorpusSection.model_validate(values), tmp_path / "corpus")
    told = {fate["id"]: fate for fate in fates(tmp_path / "corpus")}
    assert [(told[f"web:{name}:1"]["fate"], told[f"web:{name}:1"].get("language")) for name in ("a.html", "b.txt")] == [
        ("train", "en"),
        ("train", "zh"),
    ]
    assert told["web:a.html:1"]["changes"] == {"redaction.email": 1}
    assert told["web:c.txt:1"]["rule"] == "language.other"
    assert told["web:d.md:1"]["rule"] == "gopher.words"
    english = next(document.text for document in read_documents(tmp_path / "corpus", "train"))
    assert "Home" not in english
    assert "<EMAIL>" in english
