"""Reading a model's answer: a label, a number on a scale, or a text; None where it cannot be read."""

import re
from collections.abc import Sequence

# A hyphen is a sign only where no word or number stands before it: "score-4" holds 4, "3-4" holds 3.
_NUMBER = re.compile(r"(?<!\w)(?<!\d[.,-])-?\d+(?:[.,]\d+)*(?!\w)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」"}


def read_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that the answer is, else the first one that occurs in it as a whole word.

    Case and the punctuation around the answer do not matter; where two labels start at the same place the
    longer one is meant.
    """
    exact = same_label(answer, labels)
    if exact is not None:
        return exact
    bare = [label for label in labels if _bare(label) == _bare(answer)]
    if len(bare) == 1:
        return bare[0]
    longest_first = sorted(labels, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w)({re.escape(label)})(?!\w)" for label in longest_first)
    match = re.search(pattern, answer, re.IGNORECASE)
    return longest_first[match.lastindex - 1] if match and match.lastindex else None


def read_number(answer: str, labels: Sequence[str]) -> str | None:
    """The label equal to the first number in the answer; None if that number is not on the scale."""
    match = _NUMBER.search(answer)
    return same_number(match.group(), labels) if match else None


def read_text(answer: str) -> str | None:
    """The whole answer, without the space and the one pair of quotation marks around it."""
    text = answer.strip()
    if len(text) >= 2:
        inner, closing = text[1:-1], _QUOTES.get(text[0])
        if closing == text[-1] and text[0] not in inner and closing not in inner:
            text = inner.strip()
    return text or None


def same_label(text: str, labels: Sequence[str]) -> str | None:
    """The label equal to `text`, but for case and surrounding space."""
    folded = text.strip().casefold()
    return next((label for label in labels if label.casefold() == folded), None)


def same_number(text: str, labels: Sequence[str]) -> str | None:
    """The label of the same value as the number `text`: "4.0" and "4,0" are 4."""
    try:
        value = float(re.sub(r",(\d{1,2})$", r".\1", text.strip()))
    except ValueError:
        return None
    return next((label for label in labels if float(label) == value), None)


def _bare(text: str) -> str:
    """`text` without the punctuation around it, so that `[1]`, `1.` and `"1"` are alike."""
    return re.sub(r"^\W+|\W+$", "", text).casefold() or text.strip().casefold()
