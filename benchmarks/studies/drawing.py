"""Size against KL divergence, as an SVG that stands alone and is readable on light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmarks import figures
from benchmarks.plots import Scale, scale_of
from benchmarks.studies.outcome import Measured, Study
from benchmarks.studies.subjects import OURS

_WIDTH, _HEIGHT = 760, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 730, 34, 420
_LETTER, _BOLD, _LINE = 6.4, 7.3, 15  # of a label, in pixels
# Below it only rounding in the last bits of float32 is left, and a logarithm has nothing to show.
_EXACT = 1e-6
# No variables: not every program that shows an SVG knows them.
_STYLE = """
svg { font: 12px system-ui, sans-serif; }
text { fill: #1c1e21; } .tick, .axis { fill: #666b72; } .ours { fill: #0b62b0; font-weight: 600; }
.grid { stroke: #dfe2e6; } circle { fill: none; stroke: #666b72; stroke-width: 2; }
circle.mine { fill: #0b62b0; stroke: #0b62b0; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaed; } .tick, .axis { fill: #9aa0a8; } .ours { fill: #6db3f2; }
  .grid { stroke: #3a3f45; } circle { stroke: #9aa0a8; }
  circle.mine { fill: #6db3f2; stroke: #6db3f2; }
}
"""


@dataclass(frozen=True)
class _Point:
    """A subject in the drawing, in pixels."""

    name: str
    ours: bool
    x: float
    y: float


@dataclass(frozen=True)
class _Box:
    """Where a label is, in pixels."""

    left: float
    top: float
    width: float
    anchor: str = "start"

    @property
    def x(self) -> float:
        """The place that its text is anchored at."""
        return self.left + {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * self.width

    def hits(self, other: "_Box") -> bool:
        """Whether two labels overlap."""
        apart = self.left + self.width < other.left or other.left + other.width < self.left
        return not apart and abs(self.top - other.top) < _LINE

    def covers(self, point: _Point) -> bool:
        """Whether it lies over a point."""
        return (
            self.left - 6 < point.x < self.left + self.width + 6
            and self.top - 4 < point.y < self.top + _LINE + 4
        )


def size_against_kl(study: Study, text: str) -> Markup:
    """The subjects by size and by KL on the text called `text`; builds that lose nothing are only named."""
    drawn = [each for each in study.subjects if each.quality[text].mean_kl >= _EXACT]
    exact = [each.name for each in study.subjects if each not in drawn]
    parts = [Markup("<style>{}</style>").format(Markup(_STYLE))]  # noqa: S704 - our own
    if drawn:
        sizes = scale_of([each.bytes / 1e6 for each in drawn])
        losses = scale_of([math.log10(each.quality[text].mean_kl) for each in drawn])
        points = [_place(each, text, sizes, losses) for each in drawn]
        parts += [*_axes(sizes, losses), *_labelled(points)]
    parts.append(_text(f"KL divergence to the float model, {text} text, nats (log) ↑", _LEFT, 18, "axis"))
    parts.append(_text("all files, MB →", _RIGHT, _BOTTOM + 34, "axis end"))
    if exact:
        parts.append(_text(f"Not drawn, without loss: {', '.join(exact)}", _LEFT, _BOTTOM + 34, "axis"))
    described = "; ".join(
        f"{each.name}: {figures.size(each.bytes)}, KL {figures.significant(each.quality[text].mean_kl)}"
        for each in drawn
    )
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-labelledby="t d">'
        '<title id="t">Size against KL divergence</title><desc id="d">{}</desc>{}</svg>\n'
    ).format(_WIDTH, _HEIGHT, described, Markup("").join(parts))


def _place(subject: Measured, text: str, sizes: Scale, losses: Scale) -> _Point:
    loss = math.log10(subject.quality[text].mean_kl)
    return _Point(
        subject.name, subject.family == OURS, _across(sizes, subject.bytes / 1e6), _up(losses, loss)
    )


def _across(scale: Scale, value: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * (value - scale.low) / (scale.high - scale.low)


def _up(scale: Scale, value: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * (value - scale.low) / (scale.high - scale.low)


def _axes(sizes: Scale, losses: Scale) -> list[Markup]:
    parts = []
    for tick in sizes.ticks(6):
        x = _across(sizes, tick)
        parts.append(_line(x, _TOP, x, _BOTTOM))
        parts.append(_text(f"{tick:g}", x, _BOTTOM + 16, "tick middle"))
    for power in range(math.floor(losses.low), math.ceil(losses.high) + 1):
        for factor in (1, 2, 5):
            place = power + math.log10(factor)
            if losses.low <= place <= losses.high:
                y = _up(losses, place)
                parts.append(_line(_LEFT, y, _RIGHT, y))
                parts.append(_text(f"{factor * 10.0**power:g}", _LEFT - 8, y + 4, "tick end"))
    return parts


def _labelled(points: Sequence[_Point]) -> list[Markup]:
    """Every point with its name beside it, where there is room; ours come first and so have their choice."""
    placed: list[_Box] = []
    parts = []
    for point in sorted(points, key=lambda point: not point.ours):
        box = _room_for(point, points, placed)
        placed.append(box)
        kind = "mine" if point.ours else "other"
        parts.append(
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="5" class="{}"/>').format(point.x, point.y, kind)
        )
        tone = "ours" if point.ours else "label"
        parts.append(_text(point.name, box.x, box.top + 12, f"{tone} {box.anchor}"))
    return parts


def _room_for(point: _Point, points: Sequence[_Point], placed: Sequence[_Box]) -> _Box:
    width = (_BOLD if point.ours else _LETTER) * len(point.name)
    beside = point.y - _LINE / 2
    sides = [_Box(point.x + 10, beside, width), _Box(point.x - width - 10, beside, width, "end")]
    for top in (point.y + 6, point.y - _LINE - 6, point.y + _LINE + 6, point.y - 2 * _LINE - 6):
        sides += [
            _Box(point.x - width / 2, top, width, "middle"),
            _Box(point.x + 6, top, width),
            _Box(point.x - width - 6, top, width, "end"),
        ]
    inside = [box for box in sides if box.left >= _LEFT and box.left + box.width <= _RIGHT]
    free = [
        box
        for box in inside
        if not any(box.hits(other) for other in placed) and not any(box.covers(other) for other in points)
    ]
    return (free or inside or sides)[0]


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="grid"/>').format(
        x1, y1, x2, y2
    )


def _text(text: str, x: float, y: float, class_: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, class_, text)
