"""The order of samples: a permutation that never changes, steps that tile epochs, ranks that share a step."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.tokens.order import Order, batch_ramp, permuted, share_of_rank
from trainer.training.sample_log import OrderReport, SampleLog, check_order, next_attempt

GOLDEN = [[8, 6, 0, 5, 9, 2, 4, 1, 7, 3], [6, 4, 0, 1, 3, 5, 7, 9, 2, 8], [336258627515, 591519636026, 289626420428]]


@given(st.integers(1, 5000), st.integers(0, 2**63 - 1), st.integers(0, 100))
@settings(max_examples=150, deadline=None)
def test_a_permutation_has_every_element_once(size: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permuted(seed, epoch, size, np.arange(size))), np.arange(size))


def test_the_order_of_old_checkpoints_never_changes() -> None:
    assert permuted(1234, 0, 10, np.arange(10)).tolist() == GOLDEN[0]
    assert permuted(1234, 1, 10, np.arange(10)).tolist() == GOLDEN[1]
    assert permuted(7, 3, 10**12, np.arange(3)).tolist() == GOLDEN[2]


def test_positions_are_computed_one_by_one() -> None:
    whole = permuted(5, 2, 1000, np.arange(1000))
    assert permuted(5, 2, 1000, np.array([999, 3, 500])).tolist() == whole[[999, 3, 500]].tolist()


def test_epochs_and_seeds_give_unrelated_orders() -> None:
    orders = [permuted(seed, epoch, 2000, np.arange(2000)) for seed in (1, 2) for epoch in (0, 1)]
    for index, one in enumerate(orders):
        assert abs(np.corrcoef(one, np.arange(2000))[0, 1]) < 0.1
        for other in orders[index + 1 :]:
            assert (one == other).mean() < 0.01


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_steps_take_each_row_exactly_once_an_epoch(num_rows: int, micro: int, count: int, epochs: int) -> None:
    order = Order.of_epochs(3, num_rows, micro * count, micro, epochs)
    taken = np.concatenate([order.rows_of_step(step) for step in range(order.num_steps)])
    assert len(taken) == epochs * num_rows
    for epoch in range(epochs):
        of_epoch = taken[epoch * num_rows : (epoch + 1) * num_rows]
        assert np.array_equal(np.sort(of_epoch), np.arange(num_rows))


def test_only_the_last_step_of_a_run_is_short() -> None:
    order = Order.of_epochs(1, 103, 16, 4, 2)
    sizes = [[len(rows) for rows in order.micro_batches_of_step(step)] for step in range(order.num_steps)]
    assert sizes[:-1] == [[4, 4, 4, 4]] * 12
    assert sizes[-1] == [4, 4, 4, 2]
    assert [len(order.rows_of_step(step)) for step in range(3)] == [16] * 3
    assert Order.of_steps(1, 103, 16, 4, 5).num_steps == 5


@given(st.integers(0, 50), st.integers(1, 20))
def test_ranks_share_all_items_in_contiguous_even_ranges(num_items: int, world_size: int) -> None:
    shares = [share_of_rank(num_items, rank, world_size) for rank in range(world_size)]
    assert [item for share in shares for item in share] == list(range(num_items))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


ORDER = Order.of_steps(1, 20, 8, 4, 5)


def write_log(folder: Path, attempt: int, steps: range, change: dict[tuple[int, int], list[int]] | None = None) -> None:
    logs = [SampleLog(folder, attempt, rank) for rank in range(2)]
    for step in steps:
        for number, rows in enumerate(ORDER.micro_batches_of_step(step)):
            wanted = (change or {}).get((step, number), rows.tolist())
            logs[number].write(step, number, np.array(wanted))
    for log in logs:
        log.close()


def test_a_faithful_log_has_no_repeats_and_no_gaps_also_over_attempts_and_a_torn_line(tmp_path: Path) -> None:
    write_log(tmp_path, next_attempt(tmp_path), range(0, 4))
    with (tmp_path / "sample_log" / "attempt-0001" / "rank-00000.jsonl").open("a") as file:
        file.write('{"step": 4, "micro_ba')
    write_log(tmp_path, next_attempt(tmp_path), range(2, 5))
    assert check_order(tmp_path, ORDER, 5) == OrderReport(steps=5, samples=40, repeated=0, skipped=0)


def test_a_repeat_and_a_gap_are_found(tmp_path: Path) -> None:
    first = ORDER.micro_batches_of_step(0)[0].tolist()
    write_log(tmp_path, 1, range(0, 5), {(1, 0): first})
    report = check_order(tmp_path, ORDER, 5)
    assert (report.repeated, report.skipped) == (4, 4)
    (tmp_path / "sample_log" / "attempt-0001" / "rank-00001.jsonl").unlink()
    assert check_order(tmp_path, ORDER, 5).skipped == 4 + 5 * 4


def test_the_log_is_plain_json_lines(tmp_path: Path) -> None:
    write_log(tmp_path, 1, range(0, 1))
    (line,) = (tmp_path / "sample_log" / "attempt-0001" / "rank-00001.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 0, "micro_batch": 1, "rows": ORDER.micro_batches_of_step(0)[1].tolist()}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_sizes(size: int) -> None:
    assert sorted(permuted(0, 0, size, np.arange(size)).tolist()) == list(range(size))


@given(st.integers(1, 300), st.integers(1, 6), st.integers(1, 8), st.integers(0, 12), st.integers(1, 3), st.data())
@settings(max_examples=150, deadline=None)
def test_a_batch_warm_up_still_takes_each_row_exactly_once_an_epoch(
    num_rows: int, micro: int, count: int, warmup: int, epochs: int, data: st.DataObject
) -> None:
    first = micro * data.draw(st.integers(1, count))
    ramp = batch_ramp(micro, first, micro * count, warmup)
    order = Order.of_epochs(3, num_rows, micro * count, micro, epochs, ramp)
    steps = [order.rows_of_step(step) for step in range(order.num_steps)]
    assert [len(rows) for rows in steps[:-1]] == [*ramp, *[micro * count] * len(steps)][: len(steps) - 1]
    assert all(len(rows) for rows in steps)
    starts = [order.start_of_step(step) for step in range(order.num_steps + 1)]
    assert starts == np.cumsum([0, *map(len, steps)]).tolist()
    taken = np.concatenate(steps)
    for epoch in range(epochs):
        assert np.array_equal(np.sort(taken[epoch * num_rows : (epoch + 1) * num_rows]), np.arange(num_rows))


def test_a_batch_warm_up_is_a_straight_line_in_whole_micro_batches() -> None:
    assert batch_ramp(4, 4, 32, 7) == (4, 8, 12, 16, 20, 24, 28)
    assert batch_ramp(4, 8, 16, 4) == (8, 8, 12, 12)
    order = Order.of_steps(1, 1000, 32, 4, 10, batch_ramp(4, 4, 32, 7))
    assert order.num_steps == 10
    assert order.num_positions == 112 + 3 * 32
