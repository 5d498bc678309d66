"""Signatures tell near-duplicates from neighbours, and are the same everywhere."""

import random
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from tests.corpus.box import manuals, poems
from trainer.corpus.steps.near_duplicates import BANDS, NUM_HASHES, bands, shingles, signature, similarity


def edited(text: str, share: float, rng: random.Random) -> str:
    """The text with this share of its words, or of its Han characters, replaced."""
    unit = r"[\u4e00-\u9fff]" if re.search("[\u4e00-\u9fff]", text) else r"\w+"
    return re.sub(
        unit,
        lambda match: "某" if rng.random() < share and match[0] > "z" else "zzz" if rng.random() < share else match[0],
        text,
    )


def are_candidates(first: str, second: str, language: str) -> bool:
    return bool(np.any(bands(signature(first, language)) == bands(signature(second, language))))


def test_shape_and_type_are_what_clustering_relies_on() -> None:
    sketch = signature(manuals()[0], "en")
    assert (sketch.dtype, sketch.shape) == (np.uint32, (NUM_HASHES,))
    assert (bands(sketch).dtype, bands(sketch).shape) == (np.uint64, (BANDS,))


def test_layout_case_and_punctuation_do_not_count() -> None:
    page = manuals()[3]
    assert np.array_equal(signature(page, "en"), signature(re.sub(r"\s+", "\n", page.upper()), "en"))
    poem = poems()[5]
    assert np.array_equal(signature(poem, "zh"), signature("  ".join(poem.replace("。", "！")), "zh"))


def test_a_few_other_words_make_near_duplicates_and_other_documents_none() -> None:
    rng = random.Random(5)
    pages = [page for page in manuals() if 5_000 < len(page) < 60_000][:40]
    assert sum(are_candidates(page, edited(page, 0.01, rng), "en") for page in pages) >= 39
    assert sum(are_candidates(first, second, "en") for first, second in pairwise(pages)) == 0
    verses = [poem for poem in poems() if len(poem) > 60][:200]
    assert sum(are_candidates(first, second, "zh") for first, second in pairwise(verses)) == 0


@pytest.mark.parametrize("share", [0.005, 0.02, 0.05, 0.1])
def test_the_estimate_is_near_the_true_jaccard_index(share: float) -> None:
    rng = random.Random(9)
    errors = []
    for page in manuals()[10:40]:
        other = edited(page, share, rng)
        first, second = set(shingles(page, "en").tolist()), set(shingles(other, "en").tolist())
        errors.append(similarity(signature(page, "en"), signature(other, "en")) - len(first & second) / len(first | second))
    assert abs(float(np.mean(errors))) < 0.03
    assert float(np.std(errors)) < 0.08, "the theory says 0.047"


def test_chinese_is_cut_into_characters_whatever_it_is_called() -> None:
    poem = poems()[0]
    assert np.array_equal(shingles(poem, "zh"), shingles(poem, "und"))
    assert len(shingles("床前明月光疑是地上霜", "zh")) == 9


def test_any_text_has_a_signature() -> None:
    for text in ("", " ", "a", "。。。", "word", "字", "\ud800", "😀😀"):
        for language in ("en", "zh"):
            assert signature(text, language).shape == (NUM_HASHES,)


def test_equal_bands_at_different_places_never_meet() -> None:
    constant = np.full(NUM_HASHES, 7, dtype=np.uint32)
    assert len(set(bands(constant).tolist())) == BANDS


def test_another_process_makes_the_same_signature() -> None:
    code = (
        "from tests.corpus.box import poems, manuals; from trainer.corpus.steps.near_duplicates import *; "
        "print(bands(signature(manuals()[1], 'en')).tolist(), bands(signature(poems()[1], 'zh')).tolist())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.strip() == f"{bands(signature(manuals()[1], 'en')).tolist()} {bands(signature(poems()[1], 'zh')).tolist()}"
