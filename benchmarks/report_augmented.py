"""The tables and plots of a report on augmentation."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from benchmarks import figures, plots
from benchmarks.report_data import Augmentation
from benchmarks.report_views import Table


def parts(made: Augmentation) -> dict[str, Any]:
    """Everything that the template `augmentation` shows."""
    return {
        "counts": counts_plot(made),
        "distribution": distribution_plot(made),
        "rounds": rounds_table(made),
        "teachers": teachers_table(made),
        "refused": refused_table(made),
        "facts": facts(made),
    }


def counts_plot(made: Augmentation) -> Markup:
    """From examples asked for to examples kept; filters that dropped nothing are left out."""
    steps = [("Asked for", made.asked, "plain"), ("Answered", made.answered, "plain")]
    steps += [
        (f"Dropped: {_spaced(name)}", dropped, "history") for name, dropped in made.dropped.items() if dropped
    ]
    steps.append(("Kept", made.kept, "kept"))
    bars = [plots.Bar(label, value, figures.count(value), tone) for label, value, tone in steps]
    return plots.bar_plot("augmentation", "Synthetic examples", bars, "examples")


def distribution_plot(made: Augmentation) -> Markup | None:
    """The history's and the synthetic examples' shares, one under the other."""
    bars = []
    for name, history, synthetic in made.distribution:
        bars.append(plots.Bar(f"{name}: history", 100 * history, figures.percent(history)))
        bars.append(plots.Bar(f"{name}: synthetic", 100 * synthetic, figures.percent(synthetic), "kept"))
    if not bars:
        return None
    return plots.bar_plot("distribution", "History and synthetic examples", bars, "% of examples")


def teachers_table(made: Augmentation) -> Table | None:
    """What each teacher did and cost; the totals of several."""
    rows = tuple(
        (
            each.name,
            *map(figures.count, (each.requests, each.failed, each.kept, each.tokens)),
            _cost(each.cost),
        )
        for each in made.teachers
    )
    if not rows:
        return None
    sums = [
        sum(getattr(each, name) for each in made.teachers)
        for name in ("requests", "failed", "kept", "tokens")
    ]
    total = ("Total", *map(figures.count, sums), _cost(sum(each.cost for each in made.teachers)))
    return Table(
        "Teachers, with the cost by the prices of the recipe" if total[-1] != "–" else "Teachers",
        ("Teacher", "Requests", "Failed", "Kept", "Tokens", "Cost"),
        rows,
        frozenset(range(1, 6)),
        total if len(rows) > 1 else (),
    )


def rounds_table(made: Augmentation) -> Table | None:
    """What each round was about and gave; None where there was one only."""
    if len(made.rounds) < 2:
        return None
    rows = tuple(
        (str(number), each.about, *map(figures.count, (each.asked, each.answered, each.kept)))
        for number, each in enumerate(made.rounds, 1)
    )
    columns = ("Round", "About", "Asked for", "Answered", "Kept")
    return Table("Rounds", columns, rows, frozenset({2, 3, 4}))


def refused_table(made: Augmentation) -> Table | None:
    """Examples of what was dropped, with the filter and its reason."""
    if not made.refused:
        return None
    rows = tuple(
        (_spaced(each.filter), each.reason, _shown(each.input), _shown(each.output)) for each in made.refused
    )
    return Table("Examples of what was dropped", ("Filter", "Reason", "Input", "Output"), rows)


def facts(made: Augmentation) -> Sequence[tuple[str, str]]:
    """What left the machine, and what went wrong."""
    pairs = []
    if made.hidden:
        hidden = ", ".join(f"{count} of the kind {kind}" for kind, count in made.hidden.items())
        pairs.append(("Replaced by placeholders", hidden))
    if made.audit:
        pairs.append(("All that was sent", made.audit))
    pairs += [
        ("Failed" if times == 1 else f"Failed {times} times", what) for what, times in made.failures.items()
    ]
    return pairs


def _cost(cost: float) -> str:
    return figures.significant(cost) if cost else "–"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _shown(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
