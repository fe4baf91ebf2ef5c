"""An order of examples in which those side by side are unlike each other."""

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.profiles import Example

_POOL = 64  # candidates for each place: with long histories, a random part of what is left


def diverse_order(
    examples: "Sequence[Example]", neighbours: int, randomness: random.Random
) -> "list[Example]":
    """All examples, each one the least like the `neighbours` before it (largest least distance, greedily).

    So any few of them in a row cover the person's subjects; which ones come together is random. Distance: one
    minus the Jaccard index of the texts' words.
    """
    left = list(examples)
    randomness.shuffle(left)
    words = {id(each): _words(each) for each in left}
    order: list[Example] = []
    while left:
        before = [words[id(each)] for each in order[max(0, len(order) - neighbours) :]]
        distances = [
            min((_distance(words[id(each)], other) for other in before), default=0.0) for each in left[:_POOL]
        ]
        order.append(left.pop(distances.index(max(distances))))
    return order


def _words(example: "Example") -> frozenset[str]:
    return frozenset(re.findall(r"\w{2,}", f"{example.input} {example.output}".casefold()))


def _distance(one: frozenset[str], other: frozenset[str]) -> float:
    return 1 - len(one & other) / len(one | other) if one | other else 0.0
