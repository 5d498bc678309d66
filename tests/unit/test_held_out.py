"""Which held-out rows are measured under a cap, and how sources are weighed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.data import write_config
from trainer.config_loading import load_config
from trainer.run_folder import RunFolder
from trainer.tokens.packing import PIECE, pack_best_fit
from trainer.training.batches import Batch
from trainer.training.peers import Peers
from trainer.training.stage import TrainingData
from trainer.training.validation import Validator, held_by_source, spread, weighed
from trainer.world import World


def test_a_cap_takes_short_documents_as_often_as_all_rows_hold_them() -> None:
    lengths = np.random.default_rng(0).lognormal(4.5, 1.2, 20_000).astype(int).clip(2)
    documents = np.empty(len(lengths), PIECE)
    documents["shard"], documents["length"], documents["start"] = 0, lengths, 1 + np.cumsum([0, *lengths[:-1]])
    rows = pack_best_fit(documents, 256)
    pieces_of_row = np.diff(rows.row_starts)
    for cap in (48, 96, 400):
        sample = pieces_of_row[spread(len(rows), cap)].mean()
        assert sample == pytest.approx(pieces_of_row.mean(), rel=0.15), cap
        assert pieces_of_row[:cap].mean() < 0.6 * pieces_of_row.mean()  # what the first rows would say


def test_rows_that_alternate_are_taken_alike() -> None:
    taken = spread(400, 200)
    assert 80 <= (taken % 2).sum() <= 120
    assert len(np.unique(taken)) == 200


@pytest.mark.parametrize("num_rows", [0, 1, 7, 100, 1_000_003])
@pytest.mark.parametrize("cap", [1, 7, 48, None])
def test_a_cap_is_kept_and_rows_are_taken_once_in_order(num_rows: int, cap: int | None) -> None:
    taken = spread(num_rows, cap)
    assert len(taken) == min(num_rows, cap or num_rows)
    assert (np.diff(taken) > 0).all()
    assert len(taken) == 0 or (taken[0] >= 0 and taken[-1] < num_rows)


def test_sources_weigh_what_they_hold_and_one_without_rows_nothing() -> None:
    sums = np.array([[10.0, 20.0], [10.0, 60.0], [0.0, 0.0]])
    assert weighed(sums, [30, 10, 0]).tolist() == [40.0, 30 * 2.0 + 10 * 6.0]


def test_all_sources_together_do_not_change_their_mixture_with_the_cap(small_data: Path, tmp_path: Path) -> None:
    # a model that knows a source by one of its ids and pays for it by the token: what "all" says is the mixture alone
    config = load_config(write_config(tmp_path / "config.yaml", small_data))
    data = TrainingData.open(config, RunFolder.of(config))
    rows = data.held_out
    borders = [first for first, _ in rows.info.rows_by_source.values()]

    def measured(cap: int | None) -> float:
        current = iter(Validator(rows, data.bytes_per_id, 1, cap, Peers(World(), torch.device("cpu"))).batches())

        def loss_of(batch: Batch) -> torch.Tensor:
            source, _ = next(current)
            return torch.tensor(float(batch.num_targets * (1 + source)))

        found = Validator(rows, data.bytes_per_id, 1, cap, Peers(World(), torch.device("cpu"))).measure(loss_of, lambda: False)
        assert found is not None
        return found.bits_per_byte

    assert len(borders) > 1, "the data set needs several sources"
    whole = measured(None)
    targets = held_by_source(rows, lambda shard: shard.tokens)
    assert sum(targets) == sum(
        int((rows.read(np.arange(first, last))[1] >= 0).sum()) for first, last in rows.info.rows_by_source.values()
    )
    for cap in (8, 16):
        assert measured(cap) == pytest.approx(whole, rel=0.1), cap
