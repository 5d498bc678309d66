"""The learning rate over a run."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config_training import ScheduleSection
from trainer.training.schedule import lr_factor, weight_decay_factor


def curve(num_steps: int = 100, **fields: object) -> list[float]:
    schedule = ScheduleSection(**{"warmup_steps": 10, "final_ratio": 0.1, **fields})  # type: ignore[arg-type]
    return [lr_factor(schedule, step, num_steps) for step in range(num_steps)]


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
def test_the_warm_up_is_a_straight_line_to_the_peak(kind: str) -> None:
    assert curve(kind=kind)[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert curve(kind=kind)[10] == pytest.approx(1.0)


def test_cosine_ends_at_the_final_ratio_and_is_half_way_in_the_middle() -> None:
    factors = curve(num_steps=111, kind="cosine")
    assert factors[-1] == pytest.approx(0.1)
    assert factors[60] == pytest.approx(0.55)


def test_wsd_is_stable_and_then_decays_by_one_minus_sqrt() -> None:
    factors = curve(kind="wsd", decay_fraction=0.2)
    assert factors[10:80] == [1.0] * 70
    assert factors[-1] == pytest.approx(0.1)
    assert factors[79 + 5] == pytest.approx(1 - 0.9 * (5 / 20) ** 0.5)


def test_constant_stays() -> None:
    assert curve(kind="constant")[10:] == [1.0] * 90


@given(
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.integers(1, 300),
    st.integers(0, 50),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_factor_is_between_zero_and_one_and_never_rises_after_the_warm_up(
    kind: str, num_steps: int, warmup: int, decay: float, final: float
) -> None:
    factors = curve(num_steps, kind=kind, warmup_steps=warmup, decay_fraction=decay, final_ratio=final)
    assert all(0 <= factor <= 1 for factor in factors)
    after = factors[min(warmup, num_steps) :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))


def test_weight_decay_stays_or_falls_in_a_straight_line() -> None:
    assert [weight_decay_factor(ScheduleSection(), step, 4) for step in range(4)] == [1.0] * 4
    falling = ScheduleSection(weight_decay="linear")
    assert [weight_decay_factor(falling, step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
