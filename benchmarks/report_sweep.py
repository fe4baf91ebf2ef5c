"""The report of a sweep over the ratio of synthetic to real examples: one page, like the report of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from benchmarks import figures, plots
from benchmarks import report_augmented as augmented
from benchmarks.report import render_page
from benchmarks.report_data import Augmentation
from benchmarks.report_views import Table
from benchmarks.stats import Interval
from toolkit import __version__
from toolkit.files import write_atomic


@dataclass(frozen=True)
class SweepPoint:
    """One adapter, or the base model (no `ratio`), on the validation slice.

    `against_real`: by how much its loss is higher than with real examples alone, paired. `metric` on the same
    slice, `query_metric` on the held-out queries.
    """

    name: str
    ratio: float | None
    synthetic: int
    loss: float
    against_real: Interval | None = None
    metric: float | None = None
    query_metric: float | None = None


@dataclass(frozen=True)
class SweepPage:
    """What the page shows. `chosen` is a ratio of `points`; `advice` are sentences, the first the verdict."""

    title: str
    user: str
    task: str
    created: str
    points: tuple[SweepPoint, ...]
    chosen: float
    advice: tuple[str, ...]
    real: int
    validation: int
    metric: str | None = None
    augmentation: Augmentation | None = None
    caveats: tuple[str, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    command: str | None = None


def write_sweep_report(path: Path, page: SweepPage) -> None:
    """Write the page as one HTML file, atomically; an older file of that name is replaced."""
    write_atomic(path, render_sweep(page))


def render_sweep(page: SweepPage) -> str:
    """The page; all text of the data is escaped."""
    return render_page(
        "sweep.html",
        {
            "page": page,
            "version": __version__,
            "figures": figures,
            "plot": ratio_plot(page.points, page.chosen),
            "table_": points_table(page),
            "augmentation": augmented.parts(page.augmentation) if page.augmentation else None,
        },
    )


def ratio_plot(points: Sequence[SweepPoint], chosen: float) -> Markup:
    """The change of the loss against real examples alone, by the ratio, with its intervals."""
    drawn = []
    for point in points:
        if point.ratio is None:
            continue
        change = point.against_real
        drawn.append(
            (point.ratio, change.estimate, change.low, change.high) if change else (point.ratio, 0, 0, 0)
        )
    return plots.error_plot(
        "ratios",
        "Loss by the ratio of synthetic to real examples",
        drawn,
        ("synthetic examples for each real one", "loss against real only, nats; lower is better"),
        chosen,
    )


def points_table(page: SweepPage) -> Table:
    """Every figure of the base model and of each adapter."""
    with_queries = any(point.query_metric is not None for point in page.points)
    columns = ["Ratio", "Synthetic", "Loss", "Against real only (95 %)"]
    columns += [figures.metric_name(page.metric)] if page.metric else []
    columns += ["Held-out queries (not chosen by)"] if with_queries else []
    rows = []
    for point in page.points:
        change = point.against_real
        cells = [
            point.name,
            figures.count(point.synthetic),
            figures.number(point.loss),
            f"{figures.number(change.estimate, signed=True)} ({figures.number(change.low, signed=True)} to "
            f"{figures.number(change.high, signed=True)})"
            if change
            else "–",
        ]
        cells += [figures.number(point.metric)] if page.metric else []
        cells += [figures.number(point.query_metric)] if with_queries else []
        rows.append(tuple(cells))
    caption = f"On {page.validation} validation examples; {page.real} real examples in every training"
    return Table(caption, tuple(columns), tuple(rows), frozenset(range(1, len(columns))))
