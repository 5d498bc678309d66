"""Charts as SVG text, from numbers alone: no drawing library, no raster, no script.

Colours come from the page's CSS by class (`s0`, `s1`, ... for series), so one chart serves light, dark and paper. A
line chart also carries its points as JSON in `data-chart`, from which report.js shows the values under the pointer.
Lengths are units of the viewBox, which the page scales to the room there is.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trainer.tracking import units
from trainer.tracking.markup import Markup, element, join
from trainer.tracking.scales import Point, Scale, drawable, make_scale, thin

NUM_COLOURS = 8
"""Classes s0 to s7 in the page's CSS; a ninth series takes s0 again."""

_CHAR_WIDTH = 6.8
"""Mean width of a character at the CSS's 12 px, a little generous: SVG has no layout of its own."""
_ROW = 17.0
_WIDEST_COLUMN = 56.0


@dataclass(frozen=True, slots=True)
class Series:
    """A named line. NaN and infinite values leave a gap."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows. `unit` follows each value under the pointer; the title names it too."""

    title: str
    unit: str = ""
    log: bool = False
    zero: bool = False


@dataclass(frozen=True, slots=True)
class Marker:
    """A vertical line with a label, where something happened."""

    x: float
    label: str
    kind: Literal["fault", "note"] = "note"


@dataclass(frozen=True, slots=True)
class Size:
    """Width of the viewBox and height of the plot inside; titles, legend and markers come on top."""

    width: float = 320.0
    height: float = 160.0


@dataclass(frozen=True, slots=True)
class _Label:
    """Where a marker stands; its text is `lane` rows above the plot, or left out where no row has room (-1)."""

    marker: Marker
    x: float
    anchor: Literal["start", "end"]
    lane: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """Everything that the parts of a line chart must agree on."""

    x: Scale
    y: Scale
    width: float
    legend: list[list[str]]
    labels: list[_Label]

    @property
    def height(self) -> float:
        return self.y.start + 2 * _ROW + 4


def line_chart(
    title: str, series: Sequence[Series], x: Axis, y: Axis, markers: Sequence[Marker] = (), size: Size = Size()
) -> Markup:
    """A chart of values over whole numbers (steps). At most about 1,000 points of each series are drawn."""
    thinned = [Series(line.name, thin([point for point in line.points if drawable(point[0])])) for line in series]
    frame = _frame(thinned, x, y, markers, size)
    shown = any(drawable(value, log=y.log) for line in thinned for _, value in line.points)
    return element(
        "svg",
        element("title", title),
        element("desc", _description(thinned, x, y, markers)),
        element("text", y.title, class_="axis-title", x=0, y=12),
        _legend(frame.legend),
        _grid(frame, x),
        _markers(frame),
        *(_line(frame, line, index) for index, line in enumerate(thinned)),
        "" if shown else element("text", "No values yet", class_="empty", **_centre(frame)),
        class_="chart",
        role="img",
        viewBox=f"0 0 {size.width:g} {frame.height:g}",
        data_chart=_data(frame, thinned, x, y) if shown else None,
    )


def _three_digits(value: float) -> str:
    return f"{value:.3f}"


def bar_chart(
    title: str,
    groups: Sequence[str],
    bars: Sequence[tuple[str, Sequence[float]]],
    width: float = 440.0,
    form: Callable[[float], str] = _three_digits,
) -> Markup:
    """Horizontal bars from zero: for each group one bar of each name. What is not finite has a word instead."""
    rows = _flow([name for name, _ in bars], width) if len(bars) > 1 else []
    largest = max((value for _, values in bars for value in values if drawable(value)), default=0.0)
    longest = max((len(_bar_label(value, form)) for _, values in bars for value in values), default=0)
    scale = make_scale([largest], 0.0, width - (longest + 1) * _CHAR_WIDTH, zero=True, fitted=True)
    parts = [_legend(rows, first_row=0)]
    top = _ROW * len(rows) + 8
    for index, group in enumerate(groups):
        parts.append(element("text", group, class_="group", x=0, y=top + 12))
        top += 20
        for colour, (_, values) in enumerate(bars):
            parts.append(_bar(scale, values[index], top, colour, form))
            top += 17
        top += 12
    if not groups:
        parts.append(element("text", "No values yet", class_="empty", x=width / 2, y=top + 24))
        top += 40
    words = [f"{group}: " + ", ".join(f"{n} {units.number(v[i])}" for n, v in bars) for i, group in enumerate(groups)]
    description = "; ".join(words) or "No values yet"
    head = (element("title", title), element("desc", description))
    return element("svg", *head, *parts, class_="chart", role="img", viewBox=f"0 0 {width:g} {top:g}")


def _frame(series: Sequence[Series], x: Axis, y: Axis, markers: Sequence[Marker], size: Size) -> _Frame:
    values = [value for line in series for _, value in line.points]
    places = [place for line in series for place, _ in line.points] + [marker.x for marker in markers]
    # The left edge depends on the widest label of y, the top on the rows of labels, and these on where x lies
    y_scale = make_scale(values, 0.0, 0.0, log=y.log, zero=y.zero, num_ticks=4 if size.height < 220 else 5)
    left = max(len(label) for label in y_scale.labels()) * _CHAR_WIDTH + 8
    num_ticks = max(3, int(size.width // 105))
    x_scale = make_scale(places, left, size.width - 18, zero=x.zero, whole=True, fitted=True, num_ticks=num_ticks)
    legend = _flow([line.name for line in series], size.width) if len(series) > 1 else []
    labels = _place_labels(markers, x_scale, size.width)
    num_lanes = 1 + max((label.lane for label in labels), default=-1)
    top = _ROW * (1 + len(legend) + num_lanes) + 8
    return _Frame(x_scale, replace(y_scale, start=top + size.height, end=top), size.width, legend, labels)


def _centre(frame: _Frame) -> dict[str, float]:
    return {"x": (frame.x.start + frame.x.end) / 2, "y": (frame.y.start + frame.y.end) / 2}


def _grid(frame: _Frame, x: Axis) -> Markup:
    parts = []
    for tick, label in zip(frame.y.ticks, frame.y.labels(), strict=True):
        y = frame.y(tick)
        parts.append(element("line", class_="gridline", x1=frame.x.start, x2=frame.x.end, y1=y, y2=y))
        parts.append(element("text", label, class_="tick", text_anchor="end", x=frame.x.start - 7, y=y + 4))
    bottom = frame.y.start
    parts.append(element("line", class_="axis", x1=frame.x.start, x2=frame.x.end, y1=bottom, y2=bottom))
    for tick, label in zip(frame.x.ticks, frame.x.labels(), strict=True):
        place = frame.x(tick)
        # A label centred on the last tick would reach beyond the picture
        anchor = "end" if place + len(label) * _CHAR_WIDTH / 2 > frame.width else "middle"
        parts.append(element("line", class_="axis", x1=place, x2=place, y1=bottom, y2=bottom + 4))
        parts.append(element("text", label, class_="tick", text_anchor=anchor, x=place, y=bottom + _ROW))
    title_y = bottom + 2 * _ROW - 1
    parts.append(element("text", x.title, class_="axis-title", text_anchor="end", x=frame.x.end, y=title_y))
    return join(*parts)


def _line(frame: _Frame, line: Series, index: int) -> Markup:
    """One path; a point without drawable neighbours, which a path would not show, is a dot."""
    commands: list[str] = []
    dots: list[Markup] = []
    run: list[str] = []
    colour = f"s{index % NUM_COLOURS}"
    for x, y in [*line.points, (0.0, float("nan"))]:
        if drawable(y, log=frame.y.log):
            run.append(f"{frame.x(x):.1f},{frame.y(y):.1f}")
            continue
        if len(run) == 1:
            left, top = run[0].split(",")
            dots.append(element("circle", class_=f"dot {colour}", cx=left, cy=top, r="3"))
        elif run:
            commands.append("M" + "L".join(run))
        run = []
    path = element("path", class_=f"line {colour}", fill="none", d="".join(commands)) if commands else Markup()
    return join(path, *dots)


def _place_labels(markers: Sequence[Marker], x: Scale, width: float) -> list[_Label]:
    """Each label in the lowest of four rows where it meets no other; one too long for its side is left out."""
    taken: list[list[tuple[float, float]]] = [[], [], [], []]
    labels = []
    for marker in sorted(markers, key=lambda marker: marker.x):
        place, room = x(marker.x), len(marker.label) * _CHAR_WIDTH + 12
        after = place < (x.start + x.end) / 2
        left, right = (place, place + room) if after else (place - room, place)
        fits = left >= 0 and right <= width
        free = [lane for lane, spans in enumerate(taken) if fits and all(right <= a or left >= b for a, b in spans)]
        lane = free[0] if free else -1
        if free:
            taken[lane].append((left, right))
        labels.append(_Label(marker, place, "start" if after else "end", lane))
    return labels


def _markers(frame: _Frame) -> Markup:
    rules, texts = [], []
    for label in frame.labels:
        y = frame.y.end - 6 - _ROW * max(label.lane, 0)
        top = y - 10 if label.lane >= 0 else frame.y.end
        kind = f"marker {label.marker.kind}"
        rules.append(element("line", class_=kind, x1=label.x, x2=label.x, y1=top, y2=frame.y.start))
        if label.lane >= 0:
            x = label.x + (5 if label.anchor == "start" else -5)
            texts.append(element("text", label.marker.label, class_=kind, x=x, y=y, text_anchor=label.anchor))
    # Texts last: a rule on its way down may cross the label of a lower row, which its halo then keeps readable
    return join(*rules, *texts)


def _flow(names: Sequence[str], width: float) -> list[list[str]]:
    """Names in rows that fit."""
    rows: list[list[str]] = []
    room = 0.0
    for name in names:
        need = _legend_width(name)
        if not rows or need > room:
            rows.append([])
            room = width
        rows[-1].append(name)
        room -= need
    return rows


def _legend_width(name: str) -> float:
    return 18 + len(name) * _CHAR_WIDTH + 14


def _legend(rows: Sequence[Sequence[str]], first_row: int = 1) -> Markup:
    parts = []
    index = 0
    for number, row in enumerate(rows, first_row):
        x, y = 0.0, number * _ROW + 12
        for name in row:
            parts.append(element("rect", class_=f"key s{index % NUM_COLOURS}", x=x, y=y - 8, width=12, height=8, rx=2))
            parts.append(element("text", name, class_="legend", x=x + 18, y=y))
            x += _legend_width(name)
            index += 1
    return join(*parts)


def column_chart(title: str, labels: Sequence[str], values: Sequence[float], size: Size = Size(440.0, 140.0)) -> Markup:
    """Vertical columns from zero, each with its value above it and its label below."""
    width, height = size.width, size.height
    largest = max((value for value in values if drawable(value)), default=0.0) or 1.0
    step = min(_WIDEST_COLUMN, width / max(1, len(values)))
    shown = [_narrow_count(value, step) for value in values]
    stride = max(1, math.ceil((max((len(label) for label in labels), default=0) + 1) * _CHAR_WIDTH / step))
    parts = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        tall = height * value / largest if drawable(value) else 0.0
        x, top = place * step, _ROW + height - tall
        parts.append(element("rect", class_="bar s0", x=x + 1, y=top, width=max(1.0, step - 2), height=tall, rx=2))
        parts.append(element("text", shown[place], class_="tick", text_anchor="middle", x=x + step / 2, y=top - 4))
        if place % stride == 0:
            middle = min(max(x + step / 2, len(label) * _CHAR_WIDTH / 2), width - len(label) * _CHAR_WIDTH / 2)
            parts.append(element("text", label, class_="tick", text_anchor="middle", x=middle, y=height + 2 * _ROW))
    if not values:
        parts.append(element("text", "No values yet", class_="empty", x=width / 2, y=height / 2))
    described = "; ".join(f"{label}: {units.number(value)}" for label, value in zip(labels, values, strict=True))
    head = (element("title", title), element("desc", described or "No values yet"))
    return element("svg", *head, *parts, class_="chart", role="img", viewBox=f"0 0 {width:g} {height + 2 * _ROW + 6:g}")


def _narrow_count(value: float, room: float) -> str:
    """A count that fits above its own column: shortened where it must be, and left out where nothing fits."""
    short = f"{value / 1000:.0f}k" if drawable(value) and value >= 1000 else ""
    return next((text for text in (units.count(value), short) if len(text) * _CHAR_WIDTH <= room), "")


def _bar_label(value: float, form: Callable[[float], str]) -> str:
    return form(value) if drawable(value) else units.number(value)


def _bar(scale: Scale, value: float, top: float, colour: int, form: Callable[[float], str]) -> Markup:
    length = max(1.0, scale(value)) if drawable(value) and value >= 0 else 0.0
    label = _bar_label(value, form)
    bar = element("rect", class_=f"bar s{colour % NUM_COLOURS}", x=0, y=top, width=length, height=13, rx=2)
    return join(bar if length else Markup(), element("text", label, class_="value", x=length + 6, y=top + 11))


def _description(series: Sequence[Series], x: Axis, y: Axis, markers: Sequence[Marker]) -> str:
    words = [f"{y.title} over {x.title}."]
    for line in series:
        seen = [(place, value) for place, value in line.points if drawable(value, log=y.log)]
        if not seen:
            words.append(f"{line.name}: no values.")
            continue
        (first_x, first_y), (last_x, last_y) = seen[0], seen[-1]
        low, high = min(value for _, value in seen), max(value for _, value in seen)
        words.append(
            f"{line.name}: {units.number(first_y)} at {first_x:.0f}, {units.number(last_y)} at {last_x:.0f}; "
            f"lowest {units.number(low)}, highest {units.number(high)}."
        )
    words += [f"At {marker.x:.0f}: {marker.label}." for marker in markers]
    return " ".join(words)


def _data(frame: _Frame, series: Sequence[Series], x: Axis, y: Axis) -> str:
    lines = []
    for index, line in enumerate(series):
        points = [[float(f"{a:.9g}"), float(f"{b:.6g}")] for a, b in line.points if drawable(b, log=y.log)]
        lines.append({"name": line.name, "colour": f"s{index % NUM_COLOURS}", "points": points})
    scales = {
        name: [round(scale.start, 2), round(scale.end, 2), scale.low, scale.high]
        for name, scale in (("x", frame.x), ("y", frame.y))
    }
    return json.dumps({**scales, "log": y.log, "place": x.title, "unit": y.unit, "series": lines}, separators=(",", ":"))
