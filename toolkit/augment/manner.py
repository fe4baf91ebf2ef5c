"""A person's manner in a few sentences, counted from the history: for a teacher to write in."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.profiles import Example
    from toolkit.tasks import Task

_FEWEST = 4  # examples, below which habits cannot be told from chance
_HABIT, _RARE = 0.3, 0.1  # shares of texts from which, and below which, something is worth saying
_MOST_WORDS = 12
# Function words say nothing about what somebody writes of.
_FUNCTION = frozenset(
    ["a", "about", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but",
    "by", "can", "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "her", "him",
    "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "may", "me", "more", "most", "my",
    "no", "nor", "not", "of", "on", "one", "or", "our", "out", "she", "should", "so", "some", "than",
    "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "too",
    "up", "us", "was", "we", "were", "what", "when", "where", "which", "who", "will", "with", "would",
    "you", "your"]
)  # fmt: skip
_THROUGHOUT: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("begins in small letters", lambda text: text[:1].islower()),
    ("no capitals at all", lambda text: any(map(str.isalpha, text)) and text == text.lower()),
    (
        "hardly any ends with a full stop, question or exclamation mark",
        lambda text: not text.rstrip().endswith((".", "!", "?")),
    ),
)
_OFTEN: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("end with a full stop", lambda text: text.rstrip().endswith(".")),
    ("end with an exclamation mark", lambda text: text.rstrip().endswith("!")),
    ("end with a question mark", lambda text: text.rstrip().endswith("?")),
    ("have slashes", lambda text: "/" in text),
    ("have semicolons", lambda text: ";" in text),
    ("have colons", lambda text: ":" in text),
    ("have brackets", lambda text: "(" in text),
    ("have dashes", re.compile("—|–| - ").search),
    ("have ellipses", re.compile(r"…|\.\.\.").search),
    ("have emoji", re.compile(r"[\U0001F300-\U0001FAFF☀-➿]").search),
    ("speak of the writer (I, my)", re.compile(r"(?i)\b(i|i['’]m|my|me)\b").search),
    ("have contractions", re.compile(r"\w['’](t|s|re|ve|ll|d|m)\b").search),
)
# What is true of a text or not, with the words for it.
TRAITS = (*_THROUGHOUT, *_OFTEN)
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_PLACEHOLDER = re.compile(r"<[A-Z]+_\d+[a-z]?>")


@dataclass(frozen=True)
class Lengths:
    """How many words a text has: median, and the tenth and ninetieth percentile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Manner:
    """What is counted; texts are the person's outputs, or the inputs where the outputs are labels.

    `traits`: habits of writing, as phrases. `words`: what the texts are about and are said with, the most
    widespread first. `labels`: each label's share of the history. `rating`: mean and how often the extremes
    are given, where labels are numbers.
    """

    lengths: Lengths
    traits: tuple[str, ...]
    words: tuple[str, ...]
    labels: tuple[tuple[str, float], ...] = ()
    rating: str = ""

    def sentences(self) -> str:
        """The description, for a prompt; a line."""
        low, middle, high = self.lengths.low, self.lengths.median, self.lengths.high
        parts = [f"Most texts have {low:.0f} to {high:.0f} words, half of them more than {middle:.0f}."]
        if self.traits:
            parts.append(f"Habits: {'; '.join(self.traits)}.")
        if self.words:
            parts.append(f"Words that come back: {', '.join(self.words)}.")
        if self.labels:
            shares = ", ".join(f"{label} in {share:.0%}" for label, share in self.labels)
            parts.append(f"Outputs: {shares}.{f' {self.rating}' if self.rating else ''}")
        return " ".join(parts)


def manner_of(history: "Sequence[Example]", task: "Task") -> Manner | None:
    """The manner of a history; None where there is too little to count.

    A network teacher's is counted from the history with placeholders, so that it holds nothing else.
    """
    if len(history) < _FEWEST:
        return None
    labelled = bool(task.history_has_answers and task.labels)
    texts = [example.input if labelled else example.output for example in history]
    sizes = [len(WORD.findall(text)) for text in texts]
    deciles = quantiles(sizes, n=10, method="inclusive")
    labels = _shares([task.gold(example.output) or example.output for example in history]) if labelled else ()
    return Manner(
        lengths=Lengths(median(sizes), deciles[0], deciles[-1]),
        traits=tuple(_traits(texts)),
        words=_widespread(texts),
        labels=labels,
        rating=_rating(labels, task.labels) if task.parser == "number" else "",
    )


def _traits(texts: Sequence[str]) -> list[str]:
    """What is true of nearly all texts, or of a good part of them."""
    found = [trait for trait, holds in _THROUGHOUT if _share(texts, holds) >= 1 - _RARE]
    for trait, holds in _OFTEN:
        if (share := _share(texts, holds)) >= _HABIT:
            found.append(f"{share:.0%} {trait}")
    return found + _edges(texts)


def _edges(texts: Sequence[str]) -> list[str]:
    """How many texts begin or end alike."""
    found = []
    words = [WORD.findall(_PLACEHOLDER.sub(" ", text)) for text in texts]
    for name, place in (("begin", 0), ("end", -1)):
        common = Counter(each[place].casefold() for each in words if each).most_common(1)
        if common and common[0][1] / len(texts) >= _HABIT:
            found.append(f'{common[0][1] / len(texts):.0%} {name} with "{common[0][0]}"')
    return found


def _widespread(texts: Sequence[str]) -> tuple[str, ...]:
    """The words that occur in the most texts, of those that are in three at least."""
    spread: Counter[str] = Counter()
    for text in texts:
        spread.update({word.casefold() for word in WORD.findall(_PLACEHOLDER.sub(" ", text))} - _FUNCTION)
    common = [(word, count) for word, count in spread.items() if count >= 3 and len(word) > 1]
    common.sort(key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in common[:_MOST_WORDS])


def _shares(labels: Sequence[str]) -> tuple[tuple[str, float], ...]:
    counted = Counter(labels)
    return tuple((label, count / len(labels)) for label, count in sorted(counted.items()))


def _rating(shares: Sequence[tuple[str, float]], labels: Sequence[str]) -> str:
    """Whether somebody is strict or kind, and how often the ends of the scale are used."""
    scale = sorted(float(label) for label in labels)
    given = [(float(label), share) for label, share in shares]
    average = sum(value * share for value, share in given)
    ends = sum(share for value, share in given if value in (scale[0], scale[-1]))
    middle = mean((scale[0], scale[-1]))
    lean = "strict" if average < middle - 0.5 else "kind" if average > middle + 0.5 else "even-handed"
    return f"On average {average:.1f}: {lean}; the ends of the scale are given in {ends:.0%}."


def _share(texts: Sequence[str], holds: Callable[[str], object]) -> float:
    return sum(map(bool, map(holds, texts))) / len(texts)
