"""What means the same in other words: among synthetic examples, in the history, in held-out queries."""

from collections.abc import Sequence

import numpy as np

from toolkit.augment.selection.embedding import Vectors
from toolkit.augment.selection.outcome import Judgement, Leakage


def semantic_duplicates(
    own: Vectors, new: Vectors, own_texts: Sequence[str], new_texts: Sequence[str], threshold: float
) -> Judgement:
    """Refuse what is closer than `threshold` (cosine) to a history example or to one kept before it."""
    refused: dict[int, tuple[float, str]] = {}
    kept: list[int] = []
    to_history = new @ own.T
    for place in range(len(new)):
        nearest = int(np.argmax(to_history[place]))
        best, text = float(to_history[place, nearest]), own_texts[nearest]
        if kept:
            among = new[kept] @ new[place]
            if float(among.max()) > best:
                best, text = float(among.max()), new_texts[kept[int(np.argmax(among))]]
        if best > threshold:
            refused[place] = (best, f"means nearly the same as {text[:80]!r} (cosine {best:.2f})")
        else:
            kept.append(place)
    ordered = sorted(refused.items(), key=lambda item: (-item[1][0], item[0]))
    note = f"cosine above {threshold:g}"
    return Judgement({place: reason for place, (_, reason) in ordered}, note)


def leakage(own: Vectors, new: Vectors, held_out: Vectors) -> Leakage | None:
    """How near synthetic examples come to what is held out, beside how near the history does."""
    if not min(len(own), len(new), len(held_out)):
        return None
    theirs, usual = (new @ held_out.T).max(1), (own @ held_out.T).max(1)
    return Leakage(
        *(float(value) for value in (theirs.max(), np.median(theirs), usual.max(), np.median(usual)))
    )
