"""The baselines are what their formulas say."""

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from trainer.evaluation import ngrams
from trainer.evaluation.ngrams import NgramModel
from trainer.tokens.shards import IGNORED, TokenRows, read_manifest


@pytest.fixture(scope="module")
def rows(small_data: Path) -> TokenRows:
    return TokenRows(small_data / "tokens", read_manifest(small_data / "tokens"), "train")


@pytest.fixture(scope="module")
def model(rows: TokenRows) -> NgramModel:
    return NgramModel.fit(rows, 512)


def test_probabilities_of_all_ids_sum_to_one_after_seen_and_unseen_ids(model: NgramModel) -> None:
    everything = np.arange(512)
    assert np.exp(-model.unigram_nats(everything)).sum() == pytest.approx(1)
    unseen = int(np.flatnonzero(model.first_counts == 0)[0])
    for first in (0, 300, 400, unseen):
        assert np.exp(-model.bigram_nats(np.full(512, first), everything)).sum() == pytest.approx(1)


def test_it_equals_a_plain_implementation_of_the_formulas(rows: TokenRows, model: NgramModel) -> None:
    inputs, targets, _ = rows.read(np.arange(len(rows)))
    pairs = [(a, b) for a, b in zip(inputs.ravel().tolist(), targets.ravel().tolist(), strict=True) if b != IGNORED]
    single, follow = Counter(b for _, b in pairs), defaultdict(Counter)
    for a, b in pairs:
        follow[a][b] += 1
    for a, b in [*pairs[::997], (5, 6), (300, 2)]:
        unigram = (single[b] + 1) / (len(pairs) + 512)
        count, kinds = sum(follow[a].values()), len(follow[a])
        bigram = (follow[a][b] + kinds * unigram) / (count + kinds) if count else unigram
        assert model.unigram_nats(np.array([b]))[0] == pytest.approx(-math.log(unigram))
        assert model.bigram_nats(np.array([a]), np.array([b]))[0] == pytest.approx(-math.log(bigram))


def test_merging_in_small_pieces_gives_the_same_counts(
    rows: TokenRows, model: NgramModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngrams, "_MERGE_PAIRS", 1000)
    monkeypatch.setattr(ngrams, "_ROWS_AT_ONCE", 7)
    again = NgramModel.fit(rows, 512)
    for name in ("unigrams", "pair_keys", "pair_counts", "first_counts", "first_types"):
        assert np.array_equal(getattr(again, name), getattr(model, name)), name
