"""Whether a text is in the language, and roughly the writing, of a person's texts."""

import math
from collections import Counter
from collections.abc import Sequence

_ORDER = 3
_SHORTEST = 24  # characters; what is shorter says too little
_FEWEST = 2000  # characters of history, below which nothing is told
_SLACK = 1.2
_QUANTILE = 0.95
_LEAST_LIMIT = 4.0  # bits; even who always writes the same may write something new in the same language


class Characters:
    """A trigram model of the person's characters, and how unusual their own texts look to it.

    A text's score is its cross-entropy in bits a character, interpolated over orders 1 to 3 (Jelinek and
    Mercer, 1980), case folded. The person's own texts are scored by a model without themselves; what scores a
    fifth above their 95th percentile, and 4 bits at least, is foreign: another language, or mere symbols.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts: list[Counter[str]] = [Counter() for _ in range(_ORDER)]
        self._contexts: list[Counter[str]] = [Counter() for _ in range(_ORDER)]
        folded = [_folded(text) for text in texts]
        for text in folded:
            self._add(text, 1)
        self._limit = math.inf
        long = [text for text in folded if len(text) >= _SHORTEST]
        if sum(map(len, folded)) >= _FEWEST and len(long) > 1:
            own = []
            for text in long:
                self._add(text, -1)
                own.append(self._bits(text))
                self._add(text, 1)
            own.sort()
            high = own[min(len(own) - 1, int(_QUANTILE * len(own)))]
            self._limit = max(_LEAST_LIMIT, _SLACK * high)

    def foreign(self, text: str) -> str | None:
        """Why a text is unlike the person's, or None."""
        folded = _folded(text)
        if len(folded) < _SHORTEST:
            return None
        bits = self._bits(folded)
        if bits <= self._limit:
            return None
        return f"unlike the person's language ({bits:.1f} bits a character, theirs at most {self._limit:.1f})"

    def _add(self, text: str, times: int) -> None:
        padded = " " * (_ORDER - 1) + text
        for place in range(_ORDER - 1, len(padded)):
            for order in range(_ORDER):
                start = place - order
                self._counts[order][padded[start : place + 1]] += times
                self._contexts[order][padded[start:place]] += times

    def _bits(self, text: str) -> float:
        padded = " " * (_ORDER - 1) + text
        total = 0.0
        for place in range(_ORDER - 1, len(padded)):
            probability = 1 / 256  # an alphabet's worth of doubt, so that a new character is not impossible
            for order in range(_ORDER):
                start = place - order
                context = self._contexts[order][padded[start:place]]
                weight = context / (context + 4.0)
                if context > 0:
                    share = self._counts[order][padded[start : place + 1]] / context
                    probability = weight * share + (1 - weight) * probability
            total -= math.log2(probability)
        return total / max(1, len(text))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
