"""Whether a text looks like this person's: lengths, punctuation, case, openings and endings, counted."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.augment.manner import TRAITS, WORD
from toolkit.augment.selection.outcome import Judgement
from toolkit.augment.selection.outlying import p_values, too_few

_EDGE = 0.3  # share of texts that open or end alike, from which it is a habit

Numbers = NDArray[np.float64]


def _share_of(text: str, holds: Callable[[str], bool]) -> float:
    letters = [each for each in text if not each.isspace()]
    return sum(map(holds, letters)) / len(letters) if letters else 0.0


def _punctuation(text: str) -> float:
    return sum(unicodedata.category(each)[0] == "P" for each in text) / max(1, len(text.split()))


# Name, measure, and a spread below which differences mean nothing.
_AMOUNTS: tuple[tuple[str, Callable[[str], float], float], ...] = (
    ("words", lambda text: math.log1p(len(text.split())), 0.1),
    ("letters a word", lambda text: float(np.mean([len(word) for word in text.split()] or [0])), 0.2),
    ("marks of punctuation a word", _punctuation, 0.03),
    ("commas a word", lambda text: text.count(",") / max(1, len(text.split())), 0.02),
    ("share of capitals", lambda text: _share_of(text, str.isupper), 0.02),
    ("share of digits", lambda text: _share_of(text, str.isdigit), 0.02),
)


@dataclass(frozen=True)
class Features:
    """What is counted of a text: amounts, traits that hold or not, and the person's own edges."""

    edges: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Features":
        """With the word, if any, that a good part of `texts` begins with, and the one that they end with."""
        edges = []
        for place in (0, -1):
            words = Counter(_word(text, place) for text in texts)
            words.pop("", None)
            edges += [(place, word) for word, count in words.most_common(1) if count / len(texts) >= _EDGE]
        return cls(tuple(edges))

    @property
    def names(self) -> list[str]:
        """In the order of the columns."""
        edges = [f'{"end" if place else "begin"} with "{word}"' for place, word in self.edges]
        return [*(name for name, _, _ in _AMOUNTS), *(name for name, _ in TRAITS), *edges]

    def rows(self, texts: Sequence[str]) -> Numbers:
        """[texts, features]"""
        return np.array(
            [
                [
                    *(measure(text) for _, measure, _ in _AMOUNTS),
                    *(float(bool(holds(text))) for _, holds in TRAITS),
                    *(float(_word(text, place) == word) for place, word in self.edges),
                ]
                for text in texts
            ]
        )


def style_agreement(own_texts: Sequence[str], new_texts: Sequence[str], share: float) -> Judgement:
    """Refuse texts that are further from the person's than all but a `share` of their own are.

    The distance is the sum of the squared standardised differences of all features; a trait's spread is that
    of its smoothed share, so that what was never seen is unlikely and not impossible.
    """
    if reason := too_few(len(own_texts), "history examples", share):
        return Judgement.idle(reason)
    features = Features.of(own_texts)
    own, new = features.rows(own_texts), features.rows(new_texts)
    reference = [float(_parts(np.delete(own, place, axis=0), own[place]).sum()) for place in range(len(own))]
    parts = [_parts(own, row) for row in new]
    scores = [float(each.sum()) for each in parts]
    chances = p_values(scores, reference)
    worst = sorted((-scores[place], place) for place in range(len(new)) if chances[place] <= share)
    # Rounded, so that of two that are as far off the first is named, whatever the processor's last bits are.
    furthest = {place: int(parts[place].round(6).argmax()) for _, place in worst}
    refused = {place: _reason(features.names, which, own, new[place]) for place, which in furthest.items()}
    return Judgement(refused, f"further from the history than {1 - share:.0%} of its own examples")


def _parts(others: Numbers, row: Numbers) -> Numbers:
    """The squared standardised difference of each feature of `row` from `others`."""
    amounts = len(_AMOUNTS)
    middle, spread = others.mean(0), others.std(0)
    spread[:amounts] = np.hypot(spread[:amounts], [least for *_, least in _AMOUNTS])
    shares = (others[:, amounts:].sum(0) + 1) / (len(others) + 2)  # Laplace's rule of succession
    middle[amounts:], spread[amounts:] = shares, np.sqrt(shares * (1 - shares))
    return np.asarray(((row - middle) / spread) ** 2)


def _reason(names: Sequence[str], worst: int, own: Numbers, row: Numbers) -> str:
    name, value, usual = names[worst], row[worst], own[:, worst]
    if worst >= len(_AMOUNTS):
        holds = "does" if value else "does not"
        return f"unlike the person's texts: it {holds} ({name}), and {usual.mean():.0%} of theirs do"
    low, high = np.quantile(usual, (0.1, 0.9))
    digits = 2
    if worst == 0:
        value, low, high = np.expm1((value, low, high))
        digits = 0
    found, *around = (f"{each:.{digits}f}" for each in (value, low, high))
    return f"unlike the person's texts: {found} {name}, and most of theirs have {' to '.join(around)}"


def _word(text: str, place: int) -> str:
    words = WORD.findall(text)
    return words[place].casefold() if words else ""
