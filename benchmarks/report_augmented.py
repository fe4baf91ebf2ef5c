"""The tables and plots of a report on augmentation."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from benchmarks import figures, plots
from benchmarks.report_data import Augmentation, SelectionPart
from benchmarks.report_views import Table

# Groups of the selection's plot, those drawn first first: label, and class of the style sheet.
_CLOUD = (("history", "own"), ("refused", "out"), ("kept", "kept"))
_MOST_POINTS = 500


def parts(made: Augmentation) -> dict[str, Any]:
    """Everything that the template `augmentation` shows."""
    return {
        "counts": counts_plot(made),
        "distribution": distribution_plot(made),
        "rounds": rounds_table(made),
        "teachers": teachers_table(made),
        "refused": refused_table(made),
        "facts": facts(made),
        "cloud": cloud_plot(made),
        "cloud_keys": [(name, plots.cloud_key(tone)) for name, tone in _CLOUD],
        "selection": selection_table(made.selection) if made.selection else None,
        "selection_facts": selection_facts(made.selection) if made.selection else (),
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


def cloud_plot(made: Augmentation) -> Markup | None:
    """History, kept and refused examples in the plane where they differ the most."""
    chosen = made.selection
    if chosen is None or not any(chosen.points.values()):
        return None
    groups = [(name, tone, _thinned(chosen.points.get(name, ()))) for name, tone in _CLOUD]
    return plots.cloud_plot("selection", "History, kept and refused examples", groups)


def selection_table(chosen: SelectionPart) -> Table:
    """What each filter by models did, and why it did not act where it did not."""
    rows = tuple(
        (
            _spaced(step.filter),
            figures.count(step.judged),
            figures.count(step.refused) if step.acts or step.refused else "does not act",
            step.note,
        )
        for step in chosen.steps
    )
    return Table(
        "Filters by models", ("Filter", "Judged", "Refused", "What it goes by"), rows, frozenset({1, 2})
    )


def selection_facts(chosen: SelectionPart) -> Sequence[tuple[str, str]]:
    """How close to the history, and to what is held out."""
    pairs = [("Texts compared by", chosen.embedding)]
    if chosen.discrepancy:
        (before, chance), (after, chance_after) = chosen.discrepancy
        pairs.append(
            (
                "Maximum mean discrepancy, squared",
                f"{before:.4f} (p = {chance:.3f}) of {chosen.candidates} candidates, {after:.4f} "
                f"(p = {chance_after:.3f}) of the {chosen.kept} kept: the lower, the closer to the history",
            )
        )
    if chosen.leakage:
        highest, median, own_highest, own_median = chosen.leakage
        pairs.append(
            (
                "Cosine to the nearest held-out query",
                f"{highest:.2f} at most, {median:.2f} in the middle; the history's own examples have "
                f"{own_highest:.2f} and {own_median:.2f}",
            )
        )
    return pairs


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


def _thinned(points: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """Every so many-th, where there are more than a plot can show."""
    return points[:: -(-len(points) // _MOST_POINTS)] if points else points


def _cost(cost: float) -> str:
    return figures.significant(cost) if cost else "–"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _shown(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
