"""Small plots as inline SVG. Places are percentages of the width and text keeps its size in pixels, so that
one drawing serves a phone and a desk; colours come from the page's style sheet."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup, escape

from benchmarks import figures

_LEFT, _RIGHT = 0.0, 100.0
_GUTTER = 7  # per cent of a line plot's width, for the figures of its levels
_ROW = 52
_AXIS = 34

Tag = Literal["line", "rect", "circle", "polyline"]


@dataclass(frozen=True)
class Bar:
    """A labelled bar from zero; `low` and `high` draw its interval, `tone` is a class of the style sheet."""

    label: str
    value: float
    text: str
    tone: str = "plain"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Dots:
    """A labelled row of single values, with an optional mark (the median) and a threshold."""

    label: str
    values: Sequence[float]
    text: str
    mark: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Scale:
    """Maps low..high to percentages of the drawing; for an axis that points up, `low` is the greater one."""

    low: float
    high: float

    def __call__(self, value: float) -> str:
        """The place of `value`, as an SVG length."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return f"{_LEFT + (_RIGHT - _LEFT) * share:.2f}%"

    def ticks(self, wanted: int = 4) -> list[float]:
        """Round values (steps of 1, 2 or 5) within the scale."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def scale_of(values: Iterable[float], *, zero: bool = False) -> Scale:
    """A scale around `values`, from zero if asked, with a little room at its open ends."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.04 * ((high - low) or abs(high) or 1.0)
    return Scale(low if zero and low == 0 else low - room, high + room)


def bar_plot(name: str, title: str, bars: Sequence[Bar], axis: str) -> Markup:
    """Horizontal bars, one a row, each with its label and value above it."""
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    scale = scale_of(ends, zero=True)
    height = _ROW * len(bars)
    parts = [_grid(scale, height, axis)]
    for index, bar in enumerate(bars):
        top = _ROW * index
        left, right = sorted((0.0, bar.value))
        width = f"{_percent(scale(right)) - _percent(scale(left)):.2f}%"
        parts.append(_label(bar.label, bar.text, top))
        parts.append(_tag("rect", x=scale(left), y=top + 24, width=width, height=14, rx=1.5, class_=bar.tone))
        if bar.low is not None and bar.high is not None:
            parts.append(_whisker(scale(bar.low), scale(bar.high), top + 31))
    described = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    return _svg(name, title, described, height + _AXIS, parts)


def dot_plot(name: str, title: str, rows: Sequence[Dots], axis: str, scale: Scale | None = None) -> Markup:
    """One row of dots for each series, on one axis."""
    limits = [row.limit for row in rows if row.limit is not None]
    scale = scale or scale_of([value for row in rows for value in row.values] + limits)
    height = _ROW * len(rows)
    parts = [_grid(scale, height, axis)]
    for index, row in enumerate(rows):
        top = _ROW * index
        parts.append(_label(row.label, row.text, top))
        parts.append(_dots(row, scale, top + 32))
    described = "; ".join(f"{row.label}: {row.text}, {len(row.values)} values" for row in rows)
    return _svg(name, title, described, height + _AXIS, parts)


def dot_strip(name: str, title: str, row: Dots) -> Markup:
    """One row of dots without an axis, for a table's cell, from the smallest to the largest value."""
    return _svg(name, title, row.text, 24, [_dots(row, scale_of(row.values), 12)], "plot strip")


def scatter_plot(
    name: str, title: str, points: Sequence[tuple[float, float]], x_axis: str, y_axis: str
) -> Markup:
    """Points on equal axes, with the diagonal where both are the same."""
    scale = scale_of([value for point in points for value in point])
    flipped = Scale(scale.high, scale.low)
    ends = scale(scale.low), scale(scale.high)
    inner = [tick for tick in scale.ticks() if 0.1 < (tick - scale.low) / (scale.high - scale.low) < 0.85]
    parts = [
        _tag("line", x1=ends[0], y1=ends[1], x2=ends[1], y2=ends[0], class_="diagonal"),
        *(
            _tag("line", x1=scale(0), y1=ends[0], x2=scale(0), y2=ends[1], class_="grid")
            + _tag("line", x1=ends[0], y1=flipped(0), x2=ends[1], y2=flipped(0), class_="grid")
            for _ in range(scale.low < 0 < scale.high)
        ),
        *(_tag("circle", cx=scale(x), cy=flipped(y), r=2.2, class_="point") for x, y in points),
        *(_text(_tick(tick, scale), scale(tick), "98.5%", "tick middle") for tick in inner),
        *(_text(_tick(tick, scale), "1.5%", flipped(tick), "tick") for tick in inner),
        _text(f"{y_axis} ↑", "1.5%", "5%", "axis"),
        _text(f"{x_axis} →", "98.5%", "93.5%", "axis end"),
    ]
    described = f"{len(points)} points; horizontal: {x_axis}; vertical: {y_axis}; the diagonal marks equality"
    return _svg(name, title, described, None, parts, "plot square")


def cloud_plot(name: str, title: str, groups: Sequence[tuple[str, str, Sequence[Sequence[float]]]]) -> Markup:
    """Groups of points (label, class of the style sheet, places) in a plane whose axes mean nothing by
    themselves: equal scales, no ticks."""
    places = [place for _, _, points in groups for place in points]
    centre, reach = (0.0, 0.0), 1.0
    if places:
        spans = [scale_of([place[axis] for place in places]) for axis in (0, 1)]
        centre = ((spans[0].low + spans[0].high) / 2, (spans[1].low + spans[1].high) / 2)
        reach = max(span.high - span.low for span in spans) / 2 or 1.0
    across, up = Scale(centre[0] - reach, centre[0] + reach), Scale(centre[1] + reach, centre[1] - reach)
    parts = [
        _tag("circle", cx=across(place[0]), cy=up(place[1]), r=4, class_=f"cloud {tone}")
        for _, tone, points in groups
        for place in points
    ]
    described = "; ".join(f"{label}: {len(points)} points" for label, _, points in groups)
    return _svg(name, title, described, None, parts, "plot square")


def cloud_key(tone: str) -> Markup:
    """The mark of a group of `cloud_plot`, for a legend."""
    mark = _tag("circle", cx="6", cy="6", r="4", class_=f"cloud {tone}")
    return Markup('<svg class="key" width="12" height="12" aria-hidden="true">{}</svg>').format(mark)


def line_plot(
    name: str, title: str, series: Sequence[tuple[str, Sequence[float]]], axis: str, *, step: str = "step"
) -> Markup:
    """Lines over their own steps, which are called `step`; the first is drawn solid, the others dashed."""
    finite = [value for _, values in series for value in values if math.isfinite(value)]
    scale = scale_of(finite, zero=True)
    height, steps = 200, max((len(values) for _, values in series), default=1)
    levels = []
    for tick in scale.ticks():
        y = height * (1 - (tick - scale.low) / (scale.high - scale.low))
        levels.append(_tag("line", x1=f"{_GUTTER}%", y1=f"{y:.1f}", x2="100%", y2=f"{y:.1f}", class_="grid"))
        levels.append(_text(_tick(tick, scale), "0%", f"{y + 4:.1f}", "tick"))
    lines = [
        _tag("polyline", points=_path(values, steps, scale, height), class_=f"line line-{index % 4}")
        for index, (_, values) in enumerate(series)
    ]
    inner = Markup('<svg x="{}%" y="0" width="{}%" height="{}" viewBox="0 0 1000 {}" {}>{}</svg>').format(
        _GUTTER, 100 - _GUTTER, height, height, Markup('preserveAspectRatio="none"'), Markup("").join(lines)
    )
    below = _text(f"{step} 1", f"{_GUTTER}%", height + 18, "tick") + _text(
        f"{step} {steps}", "100%", height + 18, "tick end"
    )
    described = f"{axis}. " + "; ".join(
        f"{label}: from {figures.number(values[0])} to {figures.number(values[-1])}"
        for label, values in series
        if values
    )
    return _svg(name, title, described, height + 26, [*levels, inner, below])


def error_plot(
    name: str,
    title: str,
    points: Sequence[tuple[float, float, float, float]],
    axes: tuple[str, str],
    marked: float | None = None,
) -> Markup:
    """Points (x, value, low, high) with their intervals, joined by a line; zero is a line of its own.

    `axes` are the names across and up; the point at x = `marked` stands out.
    """
    across = scale_of([x for x, *_ in points])
    up = scale_of([0.0, *(end for _, *ends in points for end in ends)])
    height, width = 240, 100 - _GUTTER

    def at(x: float) -> str:
        return f"{_GUTTER + width * _percent(across(x)) / 100:.2f}%"

    def level(value: float) -> str:
        return f"{height * (up.high - value) / (up.high - up.low):.1f}"

    parts = []
    for tick in up.ticks():
        y = level(tick)
        kind = "whisker" if tick == 0 else "grid"
        parts.append(_tag("line", x1=f"{_GUTTER}%", y1=y, x2="100%", y2=y, class_=kind))
        parts.append(_text(_tick(tick, up), "0%", f"{float(y) + 4:.1f}", "tick"))
    for before, after in pairwise(points):
        ends = {"x1": at(before[0]), "y1": level(before[1]), "x2": at(after[0]), "y2": level(after[1])}
        parts.append(_tag("line", **ends, class_="line"))
    for x, value, low, high in points:
        if high > low:
            parts.append(_tag("line", x1=at(x), y1=level(low), x2=at(x), y2=level(high), class_="whisker"))
        kind = "mark" if x == marked else "dot"
        parts.append(_tag("circle", cx=at(x), cy=level(value), r=6 if x == marked else 4, class_=kind))
        parts.append(_text(f"{x:g}", at(x), height + 16, "tick middle"))
    parts.append(_text(f"{axes[0]} →", "100%", height + 34, "axis end"))
    parts.append(_text(f"{axes[1]} ↑", f"{_GUTTER}%", "-8", "axis"))
    described = f"{axes[1]} by {axes[0]}: " + "; ".join(
        f"{x:g}: {figures.number(value, signed=True)} ({figures.number(low)} to {figures.number(high)})"
        for x, value, low, high in points
    )
    return _svg(name, title, described, height + 40, parts)


def line_key(index: int) -> Markup:
    """The stroke that `line_plot` drew the series with, for a legend."""
    stroke = _tag("line", x1="0", y1="5", x2="28", y2="5", class_=f"line line-{index % 4}")
    return Markup('<svg class="key" width="28" height="10" aria-hidden="true">{}</svg>').format(stroke)


def _path(values: Sequence[float], steps: int, scale: Scale, height: int) -> str:
    across = max(1, steps - 1)
    return " ".join(
        f"{1000 * index / across:.1f},{height * (1 - (value - scale.low) / (scale.high - scale.low)):.1f}"
        for index, value in enumerate(values)
        if math.isfinite(value)
    )


def _dots(row: Dots, scale: Scale, y: int) -> Markup:
    parts = [_tag("line", x1=f"{_LEFT}%", y1=y, x2=f"{_RIGHT}%", y2=y, class_="rail")]
    if row.limit is not None:
        parts.append(
            _tag("line", x1=scale(row.limit), y1=y - 12, x2=scale(row.limit), y2=y + 12, class_="limit")
        )
    for index, value in enumerate(row.values):
        if math.isfinite(value):
            # Many values would hide each other: neighbours are set a little apart, always in the same way.
            apart = 3 * (index * 2 % 5 - 2) if len(row.values) > 12 else 0
            parts.append(_tag("circle", cx=scale(value), cy=y + apart, r=3, class_="point"))
    if row.mark is not None:
        parts.append(
            _tag("line", x1=scale(row.mark), y1=y - 10, x2=scale(row.mark), y2=y + 10, class_="mark")
        )
    return Markup("").join(parts)


def _whisker(low: str, high: str, y: int) -> Markup:
    ends = [(low, y, high, y), *((x, y - 4, x, y + 4) for x in (low, high))]
    return Markup("").join(
        _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)
        for class_ in ("halo", "whisker")
        for x1, y1, x2, y2 in ends
    )


def _label(label: str, value: str, top: int) -> Markup:
    return _text(label, f"{_LEFT}%", top + 16, "label") + _text(value, f"{_RIGHT}%", top + 16, "value end")


def _grid(scale: Scale, height: int, axis: str) -> Markup:
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        anchor = "start" if _percent(x) < 2 else "end" if _percent(x) > 98 else "middle"
        parts.append(_tag("line", x1=x, y1=20, x2=x, y2=height, class_="grid"))
        parts.append(_text(_tick(tick, scale), x, height + 13, f"tick {anchor}"))
    return Markup("").join(parts) + _text(axis, f"{_RIGHT}%", height + 29, "tick end")


def _tick(value: float, scale: Scale) -> str:
    ticks = scale.ticks()
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1.0
    return figures.number(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def _percent(text: str) -> float:
    return float(text.removesuffix("%"))


def _text(text: str, x: str, y: object, class_: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(x, y, class_, text)


def _tag(tag: Tag, **attributes: object) -> Markup:
    listed = Markup(" ").join(
        Markup('{}="{}"').format(name.rstrip("_"), value) for name, value in attributes.items()
    )
    return Markup("<{} {}/>").format(tag, listed)


def _svg(
    name: str, title: str, described: str, height: int | None, parts: Sequence[Markup], class_: str = "plot"
) -> Markup:
    size = "" if height is None else Markup(' height="{}"').format(height)
    return Markup(
        '<svg class="{}" width="100%"{} role="img" aria-labelledby="{}-t {}-d">'
        '<title id="{}-t">{}</title><desc id="{}-d">{}</desc>{}</svg>'
    ).format(class_, size, name, name, name, escape(title), name, escape(described), Markup("").join(parts))
