"""Augmentation: ask a teacher for new examples in a person's manner until enough survive the filters."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.augment.answers import AnswerRecord, request_key
from toolkit.augment.filters import FILTERS, Refusal, Sieve
from toolkit.augment.labels import label_targets, next_labels
from toolkit.augment.prompts import Candidate, PromptWriter, Request
from toolkit.augment.result import Augmentation
from toolkit.augment.teachers import Completion, Message, Style, Teacher
from toolkit.errors import TeacherError
from toolkit.profiles import Example
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.profiles import Profile
    from toolkit.recipe import AugmentRecipe
    from toolkit.tasks import Task

_ROUND = 4  # requests that are planned together, so that a teacher can batch them
_SAMPLES = 3


def augment(
    profile: "Profile",
    task: "Task",
    teacher: Teacher,
    recipe: "AugmentRecipe",
    *,
    seed: int,
    answers_path: Path | None = None,
    progress: Progress = SILENT,
) -> Augmentation:
    """Ask until `recipe.examples` are kept or `recipe.max_requests` requests are spent.

    The teacher sees examples of the history only, never a query. Every answer is in the file `answers_path`
    before it is used; a later run with the same arguments reads it from there and does not ask again. To a
    "pattern" teacher one request is `recipe.examples_per_request` conversations of one example each. A
    teacher that fails after its first answers ends the run, and `stopped` says why; TeacherError is raised
    if there was no answer at all.
    """
    writer = _Planner(profile, task, recipe, seed)
    tally = _Tally()
    record = AnswerRecord(answers_path)
    with progress.step("Writing synthetic examples", total=recipe.examples, unit="examples") as advance:
        while (requests := writer.next_round(teacher.style, len(tally.kept))) and tally.stopped is None:
            for request, answer in _answers(teacher, requests, recipe, record, tally):
                before = len(tally.kept)
                for candidate in writer.read(request, answer):
                    tally.add(candidate, writer.sieve, recipe.examples)
                advance(len(tally.kept) - before)
    return tally.result(teacher.name, writer.exhausted(len(tally.kept)))


def first_requests(
    profile: "Profile", task: "Task", recipe: "AugmentRecipe", *, style: Style, seed: int
) -> list[tuple[Message, ...]]:
    """The conversations that a run would begin with, for a look at what leaves the machine before it does."""
    return [request.messages for request in _Planner(profile, task, recipe, seed).next_round(style, 0)]


class _Planner:
    """Decides what is asked next: a function of the seed and of the answers so far."""

    def __init__(self, profile: "Profile", task: "Task", recipe: "AugmentRecipe", seed: int) -> None:
        targets = label_targets(profile, task, recipe.examples)
        self.sieve = Sieve(profile, task, near_duplicate=recipe.near_duplicate, targets=targets)
        self._writer = PromptWriter(task, profile.history, shots=recipe.shots, seed=seed)
        self._recipe = recipe
        self._left = recipe.max_requests
        self._seeds = _seeds(seed)

    def next_round(self, style: Style, kept: int) -> list[Request]:
        """The next few requests; none when enough examples are kept or all requests are spent."""
        missing, each = self._recipe.examples - kept, self._recipe.examples_per_request
        requests: list[Request] = []
        wanted = next_labels(self.sieve.missing, _ROUND * each) if missing > 0 else []
        for number in range(min(_ROUND, self._left, -(-missing // each))):
            labels = wanted[number * each : (number + 1) * each]
            requests += self._writer.write(style, labels, self._seeds)
            self._left -= 1
        return requests

    def read(self, request: Request, answer: Completion) -> list[Candidate]:
        """The examples in an answer."""
        return self._writer.read(request, answer.text, truncated=answer.truncated)

    def exhausted(self, kept: int) -> str | None:
        """A note, if the requests were spent before there were enough examples."""
        if self._left or kept >= self._recipe.examples:
            return None
        return (
            f"max_requests ({self._recipe.max_requests}) were spent with {kept} of {self._recipe.examples} "
            "examples kept"
        )


def _answers(
    teacher: Teacher,
    requests: Sequence[Request],
    recipe: "AugmentRecipe",
    record: AnswerRecord,
    tally: "_Tally",
) -> list[tuple[Request, Completion]]:
    """Requests with their answers, in the order asked; those without one, after a failure, left out."""
    keys = [request_key(teacher.name, each.messages, each.seed, recipe.temperature) for each in requests]
    known = [record.get(key) is not None for key in keys]
    to_ask = [index for index, found in enumerate(known) if not found]
    if to_ask:
        conversations = [requests[index].messages for index in to_ask]
        seeds = [requests[index].seed for index in to_ask]
        try:
            for place, answer in teacher.complete_many(conversations, seeds):
                record.add(keys[to_ask[place]], answer)
        except TeacherError as error:
            if not (tally.requests or any(record.get(key) for key in keys)):
                raise
            tally.stopped = str(error)
    answered = []
    for request, key, was_known in zip(requests, keys, known, strict=True):
        if found := record.get(key):
            answered.append((request, found))
            tally.count(request, found, reused=was_known)
        else:
            tally.asked += len(request.wanted)
    return answered


@dataclass
class _Tally:
    """What has come of the requests so far."""

    kept: list[Example] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    requests: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stopped: str | None = None
    notes: dict[str, None] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def count(self, request: Request, answer: Completion, *, reused: bool) -> None:
        """Add one answered request."""
        self.asked += len(request.wanted)
        self.requests += 1
        self.reused += reused
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.notes.update(dict.fromkeys(answer.notes))

    def add(self, candidate: Candidate, sieve: Sieve, most: int) -> None:
        """Keep an example or account for its refusal."""
        self.answered += 1
        if len(self.kept) >= most:
            sifted: Candidate | Refusal = Refusal("surplus", "there are enough examples")
        else:
            sifted = sieve.sift(candidate)
        if isinstance(sifted, Candidate):
            name = f"synthetic-{len(self.kept) + 1:04d}"
            self.kept.append(Example(name, sifted.input, sifted.output))
            return
        self.dropped[sifted.filter] += 1
        samples = self.samples.setdefault(sifted.filter, [])
        if len(samples) < _SAMPLES:
            samples.append({"input": candidate.input, "output": candidate.output, "reason": sifted.reason})

    def result(self, teacher: str, exhausted: str | None) -> Augmentation:
        """The account, complete."""
        return Augmentation(
            kept=tuple(self.kept),
            asked=self.asked,
            answered=self.answered,
            dropped={name: self.dropped[name] for name in FILTERS},
            dropped_examples={name: self.samples.get(name, []) for name in FILTERS},
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            teacher=teacher,
            requests=self.requests,
            reused=self.reused,
            stopped=self.stopped,
            notes=(*self.notes, *([exhausted] if exhausted else [])),
        )


def _seeds(seed: int) -> Iterator[int]:
    """Seeds for requests, below 2^31 because some endpoints take no larger one."""
    for number in count():
        digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
        yield int.from_bytes(digest[:4], "big") >> 1
