"""Charts from numbers: scales, thinning, and SVG that a strict XML parser reads."""

import json
import math
import random
from xml.etree import ElementTree

import pytest

from trainer.tracking.plot import Axis, Marker, Series, Size, bar_chart, line_chart
from trainer.tracking.scales import make_scale, thin, tick_label

SVG_AXIS = Axis("optimizer step", zero=True)
LOSS = Axis("nats per token", "nats")


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [node for node in root.iter() if name in (node.get("class") or "").split()]


def texts(root: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in root.iter("text")]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([2.1, 7.9], (2.0, 4.0, 6.0, 8.0)),
        ([0.0, 1.0], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([-3.0, 3.0], (-4.0, -2.0, 0.0, 2.0, 4.0)),
        ([5.0, 5.0], (4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6)),
        ([0.0], (-1.0, -0.5, 0.0, 0.5, 1.0)),
    ],
)
def test_ticks_are_round_numbers_that_frame_the_values(values: list[float], ticks: tuple[float, ...]) -> None:
    scale = make_scale(values, 100.0, 0.0)
    assert scale.ticks == pytest.approx(ticks)
    assert scale.low == pytest.approx(ticks[0])
    assert scale.high == pytest.approx(ticks[-1])
    assert scale(scale.low) == pytest.approx(100.0)
    assert scale(scale.high) == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(20))
def test_any_range_has_a_few_distinct_ticks_inside(seed: int) -> None:
    chance = random.Random(seed)
    values = [chance.choice([-1, 1]) * 10 ** chance.uniform(-12, 12) for _ in range(chance.randint(1, 9))]
    scale = make_scale(values, 0.0, 100.0)
    assert 2 <= len(scale.ticks) <= 9
    # A millionth of the picture is no reason for another tick
    room = 1e-6 * (scale.high - scale.low)
    assert scale.low - room <= min(values)
    assert max(values) <= scale.high + room
    logarithmic = make_scale([abs(value) for value in values], 0.0, 100.0, log=True)
    assert 2 <= len(logarithmic.ticks) <= 8
    assert len(set(logarithmic.labels())) == len(logarithmic.ticks)
    assert logarithmic.low <= min(map(abs, values)) * 1.000001


def test_steps_have_whole_ticks() -> None:
    assert make_scale([1, 3], 0, 100, zero=True, whole=True, fitted=True).ticks == (0, 1, 2, 3)
    assert make_scale([10, 1500], 0, 100, zero=True, whole=True, fitted=True).labels() == ("0", "500", "1,000", "1,500")


def test_log_ticks_are_powers_of_ten_over_many_decades() -> None:
    assert make_scale([1e-3, 1e3], 0, 100, log=True).labels() == ("0.001", "0.01", "0.1", "1", "10", "100", "1,000")
    assert make_scale([0.3, 2.5], 0, 100, log=True).labels() == ("0.2", "0.5", "1", "2", "5")


@pytest.mark.parametrize(
    ("value", "gap", "largest", "label"),
    [
        (0.0, 1.0, 5.0, "0"),
        (0.00025, 0.00025, 0.001, "0.00025"),
        (7.5e-5, 2.5e-5, 1e-4, "7.5e-5"),
        (12_500, 2_500, 20_000, "12.5k"),
        (5_000, 5_000, 20_000, "5k"),
        (1_500_000, 500_000, 2_000_000, "1.5M"),
        (2e9, 1e9, 3e9, "2G"),
        (-0.5, 0.5, 1.0, "-0.5"),
    ],
)
def test_tick_labels_are_short_and_exact(value: float, gap: float, largest: float, label: str) -> None:
    assert tick_label(value, gap, largest) == label


@pytest.mark.parametrize("low", [2.0, 1_234_567.0, 1e-3])
@pytest.mark.parametrize("span", [1e-2, 1e-4, 1e-6])
def test_ticks_of_a_nearly_constant_value_have_different_labels(low: float, span: float) -> None:
    labels = make_scale([low, low * (1 + span)], 0.0, 100.0).labels()
    assert len(set(labels)) == len(labels) > 1, labels


def test_thinning_keeps_extremes_ends_and_gaps() -> None:
    points = [(float(i), math.sin(i / 500)) for i in range(100_000)]
    points[41_234] = (41_234.0, 99.0)
    points[70_001] = (70_001.0, -99.0)
    points[55_555] = (55_555.0, math.nan)
    thinned = thin(points)
    assert len(thinned) <= 1000
    assert thinned[0] == points[0]
    assert thinned[-1] == points[-1]
    assert points[41_234] in thinned
    assert points[70_001] in thinned
    assert sum(math.isnan(y) for _, y in thinned) == 1
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)


def test_thinning_leaves_few_points_alone_and_bounds_gaps() -> None:
    few = [(1.0, 2.0), (2.0, math.inf)]
    assert thin(few) == few
    holes = [(float(i), math.nan if i % 2 else 1.0) for i in range(5000)]
    assert 300 < len(thin(holes)) <= 1000


def test_100_000_points_make_a_small_picture() -> None:
    svg = line_chart("Loss", [Series("loss", [(i, 1 / (1 + i)) for i in range(100_000)])], SVG_AXIS, LOSS)
    assert len(svg) < 50_000
    assert len(json.loads(parse(svg).get("data-chart") or "")["series"][0]["points"]) <= 1000


def test_a_chart_names_itself_its_axes_and_its_figures_for_screen_readers() -> None:
    svg = line_chart("Loss", [Series("training loss", [(10, 7.5), (20, 3.25)])], SVG_AXIS, LOSS, [Marker(12, "rank 1 killed")])
    root = parse(svg)
    assert root.get("role") == "img"
    assert root.findtext("title") == "Loss"
    assert root.findtext("desc") == (
        "nats per token over optimizer step. training loss: 7.5 at 10, 3.25 at 20; lowest 3.25, highest 7.5. "
        "At 12: rank 1 killed."
    )
    assert {"nats per token", "optimizer step", "rank 1 killed"} <= set(texts(root))


def test_values_that_are_not_finite_leave_a_gap() -> None:
    points = [(1, 1.0), (2, 2.0), (3, math.nan), (4, 2.0), (5, math.inf), (6, 1.0), (7, 2.0), (8, 1e308)]
    root = parse(line_chart("Loss", [Series("loss", points)], SVG_AXIS, LOSS))
    (path,) = of_class(root, "line")
    assert (path.get("d") or "").count("M") == 2
    (dot,) = of_class(root, "dot")
    assert dot.get("class") == "dot s0"
    assert "nan" not in ElementTree.tostring(root, encoding="unicode").lower().replace("nats", "")
    assert [x for x, _ in json.loads(root.get("data-chart") or "")["series"][0]["points"]] == [1, 2, 4, 6, 7]


def test_on_a_log_axis_zero_and_less_leave_a_gap() -> None:
    points = [(1, 10.0), (2, 1.0), (3, 0.0), (4, -1.0), (5, 0.1), (6, 1.0)]
    (path,) = of_class(parse(line_chart("Norm", [Series("n", points)], SVG_AXIS, Axis("norm", log=True))), "line")
    assert (path.get("d") or "").count("M") == 2


def test_one_point_is_a_dot_and_a_constant_is_a_line() -> None:
    one = parse(line_chart("Loss", [Series("loss", [(0, 0.0)])], SVG_AXIS, LOSS))
    assert len(of_class(one, "dot")) == 1
    assert of_class(one, "line") == []
    constant = parse(line_chart("Loss", [Series("loss", [(1, 3.0), (2, 3.0), (3, 3.0)])], SVG_AXIS, LOSS))
    (path,) = of_class(constant, "line")
    heights = {pair.split(",")[1] for pair in (path.get("d") or "").lstrip("M").split("L")}
    assert len(heights) == 1


@pytest.mark.parametrize("series", [[], [Series("loss", [])], [Series("loss", [(1, math.nan)]), Series("b", [])]])
def test_without_values_a_chart_says_so(series: list[Series]) -> None:
    root = parse(line_chart("Loss", series, SVG_AXIS, LOSS))
    assert "No values yet" in texts(root)
    assert root.get("data-chart") is None


def test_several_series_have_a_legend_in_rows_that_fit() -> None:
    names = [f"source number {i}" for i in range(9)]
    root = parse(line_chart("Bits", [Series(name, [(1, 1.0), (2, i)]) for i, name in enumerate(names)], SVG_AXIS, LOSS))
    keys = of_class(root, "key")
    assert [node.text for node in of_class(root, "legend")] == names
    assert [key.get("class") for key in keys][-1] == "key s0"
    assert max(float(key.get("x") or 0) for key in keys) < Size().width
    assert len({key.get("y") for key in keys}) > 1


def test_marker_labels_do_not_meet_and_stay_inside() -> None:
    markers = [Marker(x, f"resumed from {x}", "fault" if x % 2 else "note") for x in (100, 101, 102, 103, 400, 990, 1000)]
    size = Size(width=600)
    root = parse(line_chart("Loss", [Series("loss", [(0, 1.0), (1000, 2.0)])], SVG_AXIS, LOSS, markers, size))
    assert len([node for node in root.iter("line") if "marker" in (node.get("class") or "")]) == len(markers)
    spans: dict[str, list[tuple[float, float]]] = {}
    for label in [node for node in root.iter("text") if "marker" in (node.get("class") or "")]:
        x, width = float(label.get("x") or 0), 6.5 * len(label.text or "")
        left = x if label.get("text-anchor") == "start" else x - width
        assert left >= 0
        assert left + width <= size.width
        row = spans.setdefault(label.get("y") or "", [])
        assert all(left + width <= a or left >= b for a, b in row)
        row.append((left, left + width))
    assert sum(map(len, spans.values())) >= 6


def test_names_are_escaped() -> None:
    evil = '<script>alert("1")</script>&\x00\ud800'
    chart = line_chart(evil, [Series(evil, [(1, 1.0)]), Series("b", [(1, 2.0)])], SVG_AXIS, Axis(evil), [Marker(1, evil)])
    for svg in (chart, bar_chart(evil, [evil], [(evil, [1.0])])):
        assert "<script" not in svg
        assert parse(svg).findtext("title") == '<script>alert("1")</script>&\ufffd\ufffd'
        assert svg.encode()


def test_bars_start_at_zero_and_grow_with_their_value() -> None:
    root = parse(bar_chart("Bits", ["rfc", "all"], [("model", [1.0, 2.0]), ("bigram", [3.0, 4.0])], width=440))
    bars = of_class(root, "bar")
    assert {bar.get("x") for bar in bars} == {"0"}
    widths: dict[str | None, list[float]] = {bar.get("class"): [] for bar in bars}
    for bar in bars:
        widths[bar.get("class")].append(float(bar.get("width") or 0))
    assert widths["bar s0"][1] == pytest.approx(2 * widths["bar s0"][0], rel=0.01)
    assert widths["bar s1"][1] == pytest.approx(4 * widths["bar s0"][0], rel=0.01)
    assert widths["bar s1"][1] < 440
    assert [text for text in texts(root) if text in ("rfc", "all", "1.000", "4.000")] == ["rfc", "1.000", "all", "4.000"]
    assert root.findtext("desc") == "rfc: model 1, bigram 3; all: model 2, bigram 4"


def test_a_bar_without_a_finite_value_is_a_word() -> None:
    root = parse(bar_chart("Bits", ["rfc"], [("model", [math.nan]), ("bigram", [math.inf]), ("unigram", [0.0])]))
    assert {"not a number", "infinite", "0.000"} <= set(texts(root))
    assert len(of_class(root, "bar")) == 1
    assert "No values yet" in texts(parse(bar_chart("Bits", [], [])))
