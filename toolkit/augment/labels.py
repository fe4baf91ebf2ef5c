"""Keeping a person's label distribution: how many of each label are wanted, and which to ask for next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.profiles import Example
    from toolkit.tasks import Task


def label_targets(examples: "Sequence[Example]", task: "Task", total: int) -> dict[str, int] | None:
    """`total` shared out as the labels of `examples` are (largest remainders); None without labels."""
    if not (task.history_has_answers and task.labels):
        return None
    own = Counter(task.gold(example.output) or example.output for example in examples)
    shares = {label: total * count / len(examples) for label, count in own.items()}
    targets = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (targets[label] - shares[label], -own[label], label))
    for label in by_remainder[: total - sum(targets.values())]:
        targets[label] += 1
    return {label: count for label, count in sorted(targets.items()) if count}


def next_labels(missing: Mapping[str, int] | None, count: int) -> list[str | None]:
    """The `count` labels to ask for: shared out by how many of each are missing, the scarcest first."""
    if missing is None:
        return [None] * count
    asked: Counter[str] = Counter()
    wanted: list[str | None] = []
    for _ in range(count):
        # Highest averages (D'Hondt): proportional however many are asked for.
        label = max(missing, key=lambda each: (missing[each] / (asked[each] + 1), each))
        asked[label] += 1
        wanted.append(label)
    return wanted
