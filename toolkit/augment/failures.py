"""What an adapter gets wrong of the person's own examples, so that a teacher can write more of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.augment.answers import Lines
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.augment.selection import Learner
    from toolkit.profiles import Example
    from toolkit.tasks import Task

_HARDEST = 0.25  # of the training examples, that count as failures
_FEWEST = 2


@dataclass(frozen=True)
class Failures:
    """The examples of a history that an adapter does worst on.

    `places`: in the history, the worst first. `wrong`: how many examples it answered wrongly; None where
    answers are free text and only the loss says how well they fit. `confusions`: (what the person gives,
    what the adapter answers, how often), the most frequent first.
    """

    places: tuple[int, ...]
    wrong: int | None = None
    confusions: tuple[tuple[str, str, int], ...] = ()


class FailureFinder:
    """Trains an adapter on the real and the synthetic examples there are, and runs it over the real ones.

    The learner's profile is the whole one: its slice for validation stops the training in time and is never
    among the failures, nor is any query. What was found is on the disk, in `path`, before it is used: a run
    that was killed finds the same again without training, and so asks the same of the teacher.
    """

    def __init__(self, learner: "Learner", *, path: Path | None = None, progress: Progress = SILENT) -> None:
        self._learner, self._task = learner, learner.task
        self._progress = progress
        self._lines = Lines(path)
        self._found = {row["key"]: found for row in self._lines.rows if (found := _read(row))}

    def __call__(self, kept: "Sequence[Example]") -> Failures:
        """The failures of an adapter that was trained beside the examples `kept`."""
        key = self._key(kept)
        if key not in self._found:
            self._found[key] = self._find(kept)
            found = self._found[key]
            self._lines.append(
                {"key": key, "places": found.places, "wrong": found.wrong, "confusions": found.confusions}
            )
        return self._found[key]

    def _find(self, kept: "Sequence[Example]") -> Failures:
        from toolkit.finetune.scoring import example_losses
        from toolkit.finetune.trial import Trials

        who = self._learner
        trials = Trials(who.base, who.profile, who.task, who.recipe, who.seed, who.prepare)
        encoded = trials.real.examples
        model, _ = trials.train(
            kept,
            progress=self._progress,
            label=f"Fine-tuning, to see what is still wrong ({len(encoded) + len(kept)} examples)",
        )
        losses = example_losses(model, encoded, progress=self._progress, label="Looking for failures")
        given: list[str] = []
        if self._task.history_has_answers and self._task.labels:
            prompts = [example.prompt for example in encoded]
            given = trials.answers(model, prompts, progress=self._progress, label="Looking for wrong answers")
        places = {example.id: place for place, example in enumerate(trials.training)}
        return failures_of(
            [places[example.id] for example in encoded],
            [trials.training[places[example.id]].output for example in encoded],
            losses,
            given,
            self._task,
        )

    def _key(self, kept: "Sequence[Example]") -> str:
        """Hex sha256 of everything that the failures depend on."""
        everything = {
            "base": self._learner.base.sha256,
            "task": self._task.as_dict(),
            "profile": self._learner.profile.digest(),
            "finetune": self._learner.recipe.as_dict(),
            "seed": self._learner.seed,
            "kept": [[example.input, example.output] for example in kept],
        }
        canonical = json.dumps(everything, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def failures_of(
    places: Sequence[int],
    outputs: Sequence[str],
    losses: Sequence[float],
    given: Sequence[str],
    task: "Task",
) -> Failures:
    """The hardest quarter: wrong answers before right ones, and the highest loss first.

    `places` of the examples in the history, their `outputs` and `losses`, and what was `given` as an answer
    (empty: answers are free text). An example whose own output is not one of the task's labels is not wrong.
    """
    golds = [task.gold(output) for output in outputs] if given else []
    read = [task.parse(answer) for answer in given]
    wrong = [gold is not None and answer != gold for gold, answer in zip(golds, read, strict=True)]
    order = sorted(
        range(len(places)), key=lambda index: (not (wrong and wrong[index]), -losses[index], places[index])
    )
    count = min(len(places), max(_FEWEST, round(_HARDEST * len(places))))
    pairs = Counter(
        (gold, answer)
        for gold, answer, is_wrong in zip(golds, read, wrong, strict=True)
        if is_wrong and gold is not None and answer is not None
    )
    confusions = sorted(((gold, answer, times) for (gold, answer), times in pairs.items()), key=_by_times)
    return Failures(
        tuple(places[index] for index in order[:count]), sum(wrong) if given else None, tuple(confusions)
    )


def _by_times(confusion: tuple[str, str, int]) -> tuple[int, str, str]:
    gold, answer, times = confusion
    return -times, gold, answer


def _read(row: dict[str, Any]) -> Failures | None:
    """A recorded finding; None for a line that is none."""
    try:
        confusions = tuple((str(gold), str(answer), int(times)) for gold, answer, times in row["confusions"])
        wrong = None if row["wrong"] is None else int(row["wrong"])
        str(row["key"])
        return Failures(tuple(map(int, row["places"])), wrong, confusions)
    except (KeyError, TypeError, ValueError):
        return None
