"""What is asked next, of which teacher: a function of the seed and of the answers so far."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from toolkit.augment.filters import Sieve
from toolkit.augment.labels import label_targets, next_labels
from toolkit.augment.prompts import PromptWriter, Request
from toolkit.augment.reading import Candidate
from toolkit.augment.teachers import Completion
from toolkit.recipe_augment import Style

if TYPE_CHECKING:
    from toolkit.augment.failures import Failures
    from toolkit.augment.privacy import Placeholders
    from toolkit.profiles import Example, Profile
    from toolkit.recipe import AugmentRecipe
    from toolkit.tasks import Task

_ROUND = 4  # requests to one teacher that are planned together, so that it can batch them


@dataclass(frozen=True)
class Asked:
    """A request and the place of the teacher that it is for."""

    teacher: int
    request: Request


class Planner:
    """Writes requests to teachers in turn, and reads their answers.

    `hidden`: placeholders for what network teachers may not see, or None where they see texts as they are.
    `wanted`: how many examples to have written, where that is not the recipe's own number for this history.
    """

    def __init__(
        self,
        profile: "Profile",
        task: "Task",
        recipe: "AugmentRecipe",
        seed: int,
        teachers: Sequence[tuple[Style, bool]],
        hidden: "Placeholders | None" = None,
        wanted: int | None = None,
    ) -> None:
        self.wanted = recipe.wanted(len(profile.history)) if wanted is None else wanted
        self._history, self._task = profile.history, task
        self._goal, self._begun, self._held_back = self.wanted, 0, 0
        targets = label_targets(profile.history, task, self.wanted)
        self.sieve = Sieve(profile, task, near_duplicate=recipe.near_duplicate, targets=targets)
        self._styles = [style for style, _ in teachers]
        self._hidden = [hidden if network else None for _, network in teachers]
        self._writers = [
            PromptWriter(
                task,
                hidden_history(profile.history, task, at_place) if at_place else profile.history,
                shots=recipe.shots,
                seed=seed,
                has_placeholders=at_place is not None and bool(at_place.counts),
                continues=not network,
            )
            for at_place, (_, network) in zip(self._hidden, teachers, strict=True)
        ]
        self._each = [recipe.examples_in(style, network) for style, network in teachers]
        self._recipe = recipe
        self._requests = self._left = recipe.most_requests(self.wanted)
        self._seeds = _seeds(seed)

    def begin(self, kept: int, wanted: int, failures: "Failures | None" = None) -> None:
        """Begin a round of `wanted` more examples, about the `failures` of an adapter if there are any.

        Its share of the requests is its share of the examples; what a round leaves is the next one's.
        """
        self._goal = kept + wanted
        self._begun += wanted
        self._held_back = max(0, round(self._requests * (1 - self._begun / self.wanted)))
        about = self._history
        if failures is not None:
            about = tuple(self._history[place] for place in failures.places)
            for writer in self._writers:
                writer.aim(failures)
        targets = label_targets(about, self._task, wanted)
        self.sieve.missing = None if targets is None else Counter(targets)

    def next_requests(self, kept: int, among: Sequence[int] | None = None) -> list[Asked]:
        """The next few requests to the teachers `among` (their places; None: all of them).

        None is left when the round has its examples or its requests are spent.
        """
        places = list(range(len(self._writers)) if among is None else among)
        missing = self._goal - kept
        size = min(max(_ROUND, self._recipe.concurrency) * len(places), self._left - self._held_back)
        turns = [places[number % len(places)] for number in range(size)]
        asks = sum(self._each[place] for place in turns) if missing > 0 else 0
        wanted = next_labels(self.sieve.missing, asks)
        asked: list[Asked] = []
        begun = 0  # examples asked for
        for place in turns:
            if begun >= missing:
                break
            labels = wanted[begun : begun + self._each[place]]
            requests = self._writers[place].write(self._styles[place], labels, self._seeds)
            asked += [Asked(place, request) for request in requests]
            begun += len(labels)
            self._left -= 1
        return asked

    def read(self, asked: Asked, answer: Completion) -> list[Candidate]:
        """The examples in an answer, with what the placeholders in it stand for."""
        found = self._writers[asked.teacher].read(asked.request, answer.text, truncated=answer.truncated)
        hidden = self._hidden[asked.teacher]
        return found if hidden is None else [_restored(candidate, hidden) for candidate in found]

    def exhausted(self, kept: int) -> str | None:
        """A note, if the requests were spent before there were enough examples."""
        if self._left or kept >= self.wanted:
            return None
        return f"max_requests ({self._requests}) were spent with {kept} of {self.wanted} examples kept"

    def rounds(self, number: int) -> list[int]:
        """How many examples each of so many rounds is to keep; all but the first are about failures."""
        if not self.wanted:
            return []
        later = number - 1
        aimed = min(round(self.wanted * self._recipe.failure_share), self.wanted - 1) if later else 0
        each = [aimed // later + (place < aimed % later) for place in range(later)]
        return [self.wanted - aimed, *(size for size in each if size)]


def open_placeholders(profile: "Profile", task: "Task", recipe: "AugmentRecipe") -> "Placeholders | None":
    """What network teachers see in the place of personal data; None if the recipe hides nothing.

    Raises TeacherError if the detector is not installed.
    """
    from toolkit.augment.privacy import Placeholders, open_finder
    from toolkit.recipe_augment import NOTHING

    kinds = [kind for kind in recipe.hide if kind != NOTHING]
    if not kinds and not recipe.patterns:
        return None
    texts = [text for example in profile.history for text in _texts_of(example, task)]
    return Placeholders(open_finder(kinds, recipe.patterns, recipe.name_model), texts)


def hidden_history(
    history: "Sequence[Example]", task: "Task", hidden: "Placeholders"
) -> "tuple[Example, ...]":
    """The history as network teachers see it; labels of the task are nobody's and stay as they are."""
    return tuple(
        replace(
            example,
            input=hidden.hide(example.input),
            output=example.output if _is_label(example, task) else hidden.hide(example.output),
        )
        for example in history
    )


def _texts_of(example: "Example", task: "Task") -> list[str]:
    return [example.input] if _is_label(example, task) else [example.input, example.output]


def _is_label(example: "Example", task: "Task") -> bool:
    return bool(task.history_has_answers and task.labels) and task.gold(example.output) is not None


def _restored(candidate: Candidate, hidden: "Placeholders") -> Candidate:
    unknown = hidden.unknown(candidate.input + " " + candidate.output)
    problem = candidate.problem or (f"{unknown[0]} stands for nothing" if unknown else None)
    return Candidate(hidden.restore(candidate.input), hidden.restore(candidate.output), problem)


def _seeds(seed: int) -> Iterator[int]:
    """Seeds for requests, below 2^31 because some endpoints take no larger one."""
    for number in count():
        digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
        yield int.from_bytes(digest[:4], "big") >> 1
