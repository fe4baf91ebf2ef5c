"""A personalisation study as an SVG that stands alone: every arm's mean, and its difference to the base."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from benchmarks import figures
from benchmarks.plots import Scale, scale_of
from benchmarks.studies.personalisation_arms import BASE

_WIDTH, _ROW, _TOP = 760, 26, 58
_NAMES, _GAP = 190, 40
# No variables: not every program that shows an SVG knows them.
_STYLE = """
svg { font: 12px system-ui, sans-serif; }
text { fill: #1c1e21; } .tick, .axis { fill: #666b72; } .title { font-weight: 600; }
.grid { stroke: #dfe2e6; } .zero { stroke: #666b72; stroke-dasharray: 3 3; }
.span { stroke: #0b62b0; stroke-width: 2; } circle { fill: #0b62b0; }
.unsure .span { stroke: #666b72; } .unsure circle { fill: #666b72; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaed; } .tick, .axis { fill: #9aa0a8; } .grid { stroke: #3a3f45; }
  .zero { stroke: #9aa0a8; } .span { stroke: #6db3f2; } circle { fill: #6db3f2; }
  .unsure .span { stroke: #9aa0a8; } .unsure circle { fill: #9aa0a8; }
}
"""


def drawing(found: dict[str, Any], metric: str, title: str) -> Markup:
    """The arms of a study's summary, one row each: left the metric, right the paired difference to the base.

    Points are means over people, lines 95 % intervals; a difference whose interval holds zero is grey.
    """
    one = found["metrics"][metric]
    name, better = figures.metric_name(metric), "higher" if one["higher_is_better"] else "lower"
    bottom = _TOP + _ROW * len(one["arms"])
    middle = _NAMES + (_WIDTH - 20 - _NAMES - _GAP) / 2
    left = _Panel(list(one["arms"].values()), _NAMES, middle, bottom)
    right = _Panel(list(one["against_base"].values()), middle + _GAP, _WIDTH - 20, bottom, zero=True)
    parts = [
        Markup("<style>{}</style>").format(Markup(_STYLE)),  # noqa: S704 - our own
        _text(f"{title}: {found['people']} people", 10, 20, "title"),
        _text(f"{name} ({better} is better)", _NAMES, 44, "axis"),
        _text("difference to base, paired", middle + _GAP, 44, "axis"),
        *left.axis(),
        *right.axis(),
    ]
    for row, (arm, value) in enumerate(one["arms"].items()):
        y = _TOP + _ROW * (row + 0.5)
        parts += [_text(arm, _NAMES - 14, y + 4, "end"), left.interval(value, y)]
        if arm != BASE:
            parts.append(right.interval(one["against_base"][arm], y, unsure=True))
    described = "; ".join(f"{arm} {figures.number(value['estimate'])}" for arm, value in one["arms"].items())
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-labelledby="t d">'
        '<title id="t">{}</title><desc id="d">{}: {}</desc>{}</svg>\n'
    ).format(_WIDTH, bottom + 34, title, name, described, Markup("").join(parts))


class _Panel:
    """One axis with its grid; intervals are drawn on it."""

    def __init__(
        self, values: Sequence[dict[str, Any]], left: float, right: float, bottom: float, zero: bool = False
    ) -> None:
        ends = [value[name] for value in values for name in ("low", "high")] + [0.0] * zero
        self._scale: Scale = scale_of(ends)
        self._left, self._right, self._bottom, self._zero = left, right, bottom, zero

    def axis(self) -> list[Markup]:
        parts = []
        for tick in self._scale.ticks(5):
            kind = "zero" if self._zero and abs(tick) < 1e-12 else "grid"
            parts.append(_line(self._x(tick), _TOP, self._x(tick), self._bottom, kind))
            parts.append(_text(f"{tick:g}", self._x(tick), self._bottom + 18, "tick middle"))
        return parts

    def interval(self, value: dict[str, Any], y: float, *, unsure: bool = False) -> Markup:
        grey = unsure and value["low"] <= 0 <= value["high"]
        return Markup('<g{}>{}<circle cx="{:.1f}" cy="{:.1f}" r="4"/></g>').format(
            Markup(' class="unsure"') if grey else "",
            _line(self._x(value["low"]), y, self._x(value["high"]), y, "span"),
            self._x(value["estimate"]),
            y,
        )

    def _x(self, value: float) -> float:
        return self._left + (self._right - self._left) * (value - self._scale.low) / (
            self._scale.high - self._scale.low
        )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x1, y1, x2, y2, kind
    )


def _text(text: str, x: float, y: float, kind: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, kind, text)
