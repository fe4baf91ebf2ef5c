"""Filters: why a synthetic example is refused. Each is a small function; `Sieve` applies them in order."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from toolkit.augment.characters import Characters
from toolkit.augment.reading import Candidate
from toolkit.errors import EdgePLMError

if TYPE_CHECKING:
    from toolkit.profiles import Example, Profile
    from toolkit.tasks import Task

# In the order in which they are applied; an example is counted under the first that refuses it.
FILTERS = ("format", "repetition", "language", "held_out", "duplicate", "near_duplicate", "surplus")

_SHORTEST, _LONGEST = 0.5, 1.5
_MORE_REPETITIVE = 0.2
_FEWEST_WORDS, _FEWEST_CHARACTERS = 3, 16
_NEARLY_WITHIN = 0.9


@dataclass(frozen=True)
class Refusal:
    """The filter that refused an example, and why, for a person to read."""

    filter: str
    reason: str


@dataclass(frozen=True)
class Lengths:
    """How many characters a text may have: the range of the person's own, with slack to both sides."""

    shortest: float
    longest: float

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Lengths":
        """From half the shortest text to one and a half times the longest."""
        sizes = [len(text) for text in texts]
        return cls(_SHORTEST * min(sizes), _LONGEST * max(sizes))


def unusual_length(text: str, lengths: Lengths) -> str | None:
    """Why a text is empty, or too short or too long to be this person's."""
    if not text:
        return "empty"
    if lengths.shortest <= len(text) <= lengths.longest:
        return None
    return f"{len(text)} characters, and the person's have {lengths.shortest:.0f} to {lengths.longest:.0f}"


def repetitiveness(text: str) -> float:
    """The share of a text's word triples that occurred in it before: near 0 in ordinary prose."""
    words = text.casefold().split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def repeats_held_out(text: str, held_out: Sequence[str], threshold: float) -> str | None:
    """Whether a text gives a held-out text away: equal, nearly equal, or one within the other.

    All are normalised. Within counts from three words and sixteen characters on, for less occurs anywhere.
    """
    from rapidfuzz import fuzz

    for other in held_out:
        if text == other:
            return "repeats a held-out text"
        if fuzz.ratio(text, other) / 100 > threshold:
            return "nearly repeats a held-out text"
        short, long = sorted((text, other), key=len)
        if len(short) < _FEWEST_CHARACTERS or len(short.split()) < _FEWEST_WORDS:
            continue
        if f" {short} " in f" {long} ":
            return "contains a held-out text, or part of one"
        if fuzz.partial_ratio(short, long) / 100 > max(threshold, _NEARLY_WITHIN):
            return "nearly contains a held-out text, or part of one"
    return None


def held_out_texts(queries: "Sequence[Example]", task: "Task") -> list[str]:
    """What must not come back, normalised: inputs of queries, and their answers where these are free text.

    Of answers only those long enough to be nobody else's.
    """
    texts = [normalised(query.input) for query in queries]
    if not (task.history_has_answers and task.labels):
        answers = [normalised(query.output) for query in queries]
        texts += [
            each for each in answers if len(each) >= _FEWEST_CHARACTERS and len(each.split()) >= _FEWEST_WORDS
        ]
    return texts


def refuse_leaks(examples: "Sequence[Example]", queries: "Sequence[Example]", task: "Task") -> None:
    """EdgePLMError if a synthetic example repeats a held-out query or its answer: training on it is cheating.

    Word for word, after normalisation: near repetitions are the sieve's matter.
    """
    held_out = set(held_out_texts(queries, task))
    free = [] if task.history_has_answers and task.labels else ["output"]
    for example in examples:
        for name in ["input", *free]:
            if normalised(getattr(example, name)) in held_out:
                raise EdgePLMError(
                    f"the synthetic example repeats a held-out query ({name})",
                    where=example.id,
                    mend="Take it out: a model that was trained on it cannot be measured by that query",
                )


def nearest_duplicate(text: str, seen: Sequence[str], threshold: float) -> str | None:
    """The one of `seen` that `text` is most like, if more than the threshold; all are normalised."""
    from rapidfuzz import fuzz, process

    best = process.extractOne(text, seen, scorer=fuzz.ratio, score_cutoff=threshold * 100)
    return str(best[0]) if best and best[1] / 100 > threshold else None


def normalised(text: str) -> str:
    """For comparisons: one Unicode form, no case, no punctuation, single spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(" " if unicodedata.category(each)[0] in "PSZC" else each for each in plain)
    return " ".join(kept.split()) or " ".join(plain.split())


class Sieve:
    """All filters, with what they compare to: the history, the held-out inputs and what was kept so far.

    `missing` holds how many examples of each label are still wanted (None: labels do not count).
    """

    def __init__(
        self, profile: "Profile", task: "Task", *, near_duplicate: float, targets: Mapping[str, int] | None
    ) -> None:
        history = profile.history
        self._task = task
        self._threshold = near_duplicate
        self.missing = None if targets is None else Counter(targets)
        self._has_input = task.history_needs_input
        self._has_label = bool(task.history_has_answers and task.labels)
        self._inputs = Lengths.of([each.input for each in history])
        self._outputs = Lengths.of([each.output for each in history])
        own = [repetitiveness(text) for each in history for text in self._texts(each.input, each.output)]
        self._allowed = max(own, default=0.0) + _MORE_REPETITIVE
        self._held_out = held_out_texts(profile.queries, task)
        self._manner = Characters([text for each in history for text in self._texts(each.input, each.output)])
        self._contents = [normalised(each.input if self._has_input else each.output) for each in history]
        self._free_outputs = set() if self._has_label else {normalised(each.output) for each in history}

    def sift(self, candidate: Candidate) -> Candidate | Refusal:
        """The candidate with its output in the task's own form, remembered as kept; or why it is refused."""
        read = self._read(candidate)
        if isinstance(read, Refusal):
            return read
        refusal = self._refused(read)
        if refusal is None:
            self._remember(read)
        return refusal or read

    def _read(self, candidate: Candidate) -> Candidate | Refusal:
        if candidate.problem:
            return Refusal("format", candidate.problem)
        if any("\ud800" <= each <= "\udfff" for each in candidate.input + candidate.output):
            return Refusal("format", "holds half a character (a lone surrogate)")
        output = self._task.parse(candidate.output) if self._has_label else candidate.output
        if output is None:
            return Refusal("format", f"the output {candidate.output[:40]!r} is none of the task's labels")
        if self._has_input and (problem := unusual_length(candidate.input, self._inputs)):
            return Refusal("format", f"the input: {problem}")
        if not self._has_label and (problem := unusual_length(output, self._outputs)):
            return Refusal("format", f"the output: {problem}")
        return replace(candidate, output=output)

    def _refused(self, example: Candidate) -> Refusal | None:
        texts = self._texts(example.input, example.output)
        share = max(repetitiveness(text) for text in texts)
        if share > self._allowed:
            return Refusal("repetition", f"{share:.0%} of it repeats itself")
        for text in texts:
            if reason := self._manner.foreign(text):
                return Refusal("language", reason)
        for text in texts:
            if reason := repeats_held_out(normalised(text), self._held_out, self._threshold):
                return Refusal("held_out", reason)
        content, output = self._content(example), normalised(example.output)
        if content in self._contents:
            return Refusal("duplicate", "another example has the same text")
        if output in self._free_outputs:
            return Refusal("duplicate", "another example has the same output")
        if other := nearest_duplicate(content, self._contents, self._threshold):
            return Refusal("near_duplicate", f"nearly the same as {other[:80]!r}")
        if self.missing is not None and self.missing[example.output] <= 0:
            return Refusal("surplus", f"there are enough examples of {example.output!r}")
        return None

    def _remember(self, example: Candidate) -> None:
        self._contents.append(self._content(example))
        if not self._has_label:
            self._free_outputs.add(normalised(example.output))
        if self.missing is not None:
            self.missing[example.output] -= 1

    def _content(self, example: Candidate) -> str:
        return normalised(example.input if self._has_input else example.output)

    def _texts(self, text: str, output: str) -> list[str]:
        """The texts of an example that the person or the teacher wrote freely."""
        return [each for each, free in ((text, self._has_input), (output, not self._has_label)) if free]
