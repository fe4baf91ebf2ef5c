"""The history and the synthetic examples side by side: labels where there are some, else lengths."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.profiles import Example
    from toolkit.tasks import Task

_FEWEST = 4  # examples of history, below which there are no quarters


@dataclass(frozen=True)
class Part:
    """One label, or a range of lengths, with its shares of the history and of the synthetic examples."""

    name: str
    history: float
    synthetic: float


def distribution(
    history: "Sequence[Example]", synthetic: "Sequence[Example]", task: "Task"
) -> tuple[Part, ...]:
    """The shares of each label, or of each quarter of the history's output lengths in words.

    Empty where there is nothing to compare.
    """
    if not history or not synthetic:
        return ()
    if task.history_has_answers and task.labels:
        own, new = ([task.gold(each.output) or each.output for each in part] for part in (history, synthetic))
        given = set(own) | set(new)
        return _parts([label for label in task.labels if label in given], own, new)
    if len(history) < _FEWEST:
        return ()
    own_sizes, new_sizes = ([len(each.output.split()) for each in part] for part in (history, synthetic))
    cuts = [round(cut) for cut in quantiles(own_sizes, n=4, method="inclusive")]
    between = [f"{low + 1} to {high}" for low, high in pairwise(cuts)]
    names = [f"up to {cuts[0]} words", *between, f"{cuts[2] + 1} and more"]

    def name(size: int) -> str:
        return names[sum(size > cut for cut in cuts)]

    used = [each for place, each in enumerate(names) if place in (0, 3) or cuts[place] > cuts[place - 1]]
    return _parts(used, list(map(name, own_sizes)), list(map(name, new_sizes)))


def _parts(names: Sequence[str], own: Sequence[str], new: Sequence[str]) -> tuple[Part, ...]:
    counted, made = Counter(own), Counter(new)
    return tuple(Part(each, counted[each] / len(own), made[each] / len(new)) for each in names)
