"""Raw text cleaned by the pods of an Indexed Job, each its share, into the very corpus that one process makes."""

from pathlib import Path

import pytest

from tests.kind.stories import Stories
from tests.support.raw_text import digests
from trainer.config_corpus import CorpusSection
from trainer.corpus.preparing import prepare

pytestmark = [pytest.mark.kind, pytest.mark.timeout(600)]

CORPUS = {
    "sources": [
        {"name": "wordnet", "path": "box:wordnet-glosses.jsonl.zst"},
        {"name": "poetry", "path": "box:chinese-poetry.jsonl.zst", "language": "zh"},
        {"name": "python", "path": "box:python-docs.jsonl.zst"},
    ],
    "near_duplicates": {"enabled": True},
    "unit_bytes": 200_000,
}


def test_pods_of_a_job_clean_a_share_each_and_write_what_one_process_writes(stories: Stories, tmp_path: Path) -> None:
    run = stories.submit(
        "clean",
        backend="job",
        nodes=2,
        storage={"data": {"kind": "none", "claimName": None}},
        trainer={"stages": ["prepare"], "corpus": CORPUS},
    )
    run.wait_for_phase("Succeeded", deadline_s=300)
    alone = tmp_path / "alone" / "corpus"
    prepare(CorpusSection.model_validate(CORPUS), alone)
    assert texts(run.copy() / "corpus") == texts(alone)


def texts(corpus: Path) -> dict[str, str]:
    """Digests of the files of documents; others name the places that these came from."""
    found = {name: digest for name, digest in digests(corpus).items() if name.endswith(".jsonl.zst")}
    assert len(found) >= 6, "three sources, two splits"
    return found
