"""All filters by models, one after the other, on the candidates of one person."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from toolkit.augment.labels import label_targets
from toolkit.augment.selection.agreement import label_agreement
from toolkit.augment.selection.difficulty import Dynamics, too_hard
from toolkit.augment.selection.embedding import Embedder, Vectors
from toolkit.augment.selection.instruction import does_not_follow
from toolkit.augment.selection.learner import Learner
from toolkit.augment.selection.matching import distance, gaussian_kernel, left_out
from toolkit.augment.selection.outcome import Distance, Judgement, Leakage, Selection, Step
from toolkit.augment.selection.outlying import too_few
from toolkit.augment.selection.similar import leakage, semantic_duplicates
from toolkit.augment.selection.style import style_agreement
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.profiles import Example, Profile
    from toolkit.recipe_select import SelectRecipe
    from toolkit.tasks import Task

_MOST_COMPARED = 6000  # examples whose kernel, a square of them, fits the memory of a small machine
_DIGITS = 3
_UNCAPPED = ("semantic_duplicate", "distribution")  # one of each kind stays; as many as are wanted stay


@dataclass(frozen=True)
class Refused:
    """A candidate that is not kept: the filter, and its reason."""

    example: "Example"
    filter: str
    reason: str


@dataclass(frozen=True)
class Selected:
    """What is kept of the candidates, in their order, what is not, and the account of it."""

    kept: "tuple[Example, ...]"
    refused: tuple[Refused, ...]
    account: Selection


def select(
    candidates: "Sequence[Example]",
    profile: "Profile",
    task: "Task",
    recipe: "SelectRecipe",
    wanted: int,
    *,
    embedder: Embedder,
    learner: Learner,
    progress: Progress = SILENT,
) -> Selected:
    """Keep at most `wanted` of `candidates`.

    Filters act in the order of `MODEL_FILTERS`; each sees what the one before has left, and says when and why
    it does not act. Held-out queries are looked at to report leakage, and for nothing else.
    """
    return _Selecting(candidates, profile, task, recipe, wanted, embedder, learner, progress).run()


@dataclass
class _Selecting:
    candidates: "Sequence[Example]"
    profile: "Profile"
    task: "Task"
    recipe: "SelectRecipe"
    wanted: int
    embedder: Embedder
    learner: Learner
    progress: Progress
    left: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def run(self) -> Selected:
        history, new = self.profile.history, self.candidates
        self.left = list(range(len(new)))
        self._own, self._new = self._embed(history, new) if new else (np.zeros((0, 1)), np.zeros((0, 1)))
        for name, judge in self._filters():
            if self.left:
                self._apply(name, judge())
        kept = tuple(new[place] for place in self.left)
        return Selected(kept, tuple(self.refused), self._account(kept))

    def _filters(self) -> list[tuple[str, Callable[[], Judgement]]]:
        """Those that the recipe asks for, in their order."""
        recipe = self.recipe
        asked = (
            ("semantic_duplicate", self._duplicates, recipe.semantic_duplicate < 1),
            ("agreement", self._agreement, recipe.agreement > 0 and self._labelled),
            ("style", self._style, recipe.style > 0),
            ("instruction", self._instruction, recipe.max_ifd is not None),
            ("difficulty", self._difficulty, recipe.difficulty > 0),
            ("distribution", self._distribution, True),
        )
        return [(name, judge) for name, judge, wanted in asked if wanted]

    def _apply(self, name: str, found: Judgement) -> None:
        """Take out what was refused, the worst first and no more than a filter may."""
        refused, note = list(found.refused.items()), found.note
        most = len(self.left) if name in _UNCAPPED else int(self.recipe.most_refused * len(self.left))
        if len(refused) > most:
            note += f"; {len(refused)} of {len(self.left)} were, and only the worst {most} are refused"
            refused = refused[:most]
        out = set()
        for place, reason in refused:
            out.add(self.left[place])
            self.refused.append(Refused(self.candidates[self.left[place]], name, reason))
        self.steps.append(Step(name, len(self.left), len(refused), found.acts, note))
        self.left = [place for place in self.left if place not in out]

    @property
    def _labelled(self) -> bool:
        return bool(self.task.history_has_answers and self.task.labels)

    def _content(self, example: "Example") -> str:
        return example.input if self.task.history_needs_input else example.output

    def _label(self, example: "Example") -> str:
        return self.task.gold(example.output) or example.output

    def _remaining(self) -> "list[Example]":
        return [self.candidates[place] for place in self.left]

    def _embed(self, history: "Sequence[Example]", new: "Sequence[Example]") -> tuple[Vectors, Vectors]:
        """Contents, and behind them the outputs where both are free text: [examples, width]."""
        everything = [*history, *new]
        texts = [self._content(each) for each in everything]
        self._has_both = self.task.history_needs_input and not self._labelled
        if self._has_both:
            texts += [each.output for each in everything]
        rows = self.embedder(texts, self.progress)
        self._width = rows.shape[1]
        if self._has_both:
            # So the kernel of a pair is the product of both kernels: that of the joint distribution.
            rows = np.hstack([rows[: len(everything)], rows[len(everything) :]])
        return rows[: len(history)], rows[len(history) :]

    def _duplicates(self) -> Judgement:
        history, new = self.profile.history, self._remaining()
        return semantic_duplicates(
            self._own[:, : self._width],
            self._new[self.left, : self._width],
            [self._content(each) for each in history],
            [self._content(each) for each in new],
            self.recipe.semantic_duplicate,
        )

    def _agreement(self) -> Judgement:
        return label_agreement(
            self._own,
            [self._label(each) for each in self.profile.history],
            self._new[self.left],
            [self._label(each) for each in self._remaining()],
            self.recipe.agreement,
            numbers=self.task.parser == "number",
        )

    def _style(self) -> Judgement:
        def text(example: "Example") -> str:
            return example.input if self._labelled else example.output

        own, new = ([text(each) for each in part] for part in (self.profile.history, self._remaining()))
        return style_agreement(own, new, self.recipe.style)

    def _instruction(self) -> Judgement:
        if not self.task.history_needs_input:
            return Judgement.idle("all examples have the same prompt")
        new = self._remaining()
        # A pair of lists may share ids: a synthetic example's is marked.
        own = [replace(each, id=f"own {each.id}") for each in self.profile.history]
        found = self.learner.following([*own, *new], self.progress)
        self._note({each.id: {"ifd": found[each.id]} for each in new if each.id in found})
        usual = [found[each.id] for each in own if each.id in found]
        return does_not_follow([each.id for each in new], found, usual, self.recipe.max_ifd or 1.0)

    def _difficulty(self) -> Judgement:
        share, new = self.recipe.difficulty, self._remaining()
        ids = [each.id for each in new]
        held_out = self.learner.held_out()
        if reason := too_few(held_out, "history examples held out of training", share):
            return Judgement.idle(reason)  # said before anything is trained for it
        watch = self.learner.learn(new, self.progress)
        self._note({name: asdict(Dynamics.of(losses)) for name, losses in watch.losses.items()})
        return too_hard(ids, watch.losses, watch.held_out, share, self.recipe.trivial)

    def _distribution(self) -> Judgement:
        if len(self.left) <= self.wanted:
            return Judgement.idle(
                f"{len(self.left)} are left and {self.wanted} wanted: nothing to choose from"
            )
        own, size = len(self.profile.history), len(self.left)
        if own < 2 or own + size > _MOST_COMPARED:
            late = dict.fromkeys(range(self.wanted, size), "there are enough examples")
            return Judgement(late, "too many or too few to compare: the first are kept", acts=False)
        kernel = gaussian_kernel(np.vstack([self._own, self._new[self.left]]))
        targets = label_targets(self.profile.history, self.task, self.wanted)
        labels = [self._label(each) for each in self._remaining()] if targets is not None else None
        out = left_out(kernel, range(own), range(own, own + size), self.wanted, labels, targets)
        reason = "without it the examples are closer to the history"
        return Judgement({place - own: reason for place in out}, "maximum mean discrepancy to the history")

    def _note(self, found: dict[str, dict[str, float]]) -> None:
        for name, figures in found.items():
            rounded = {figure: round(value, _DIGITS) for figure, value in figures.items()}
            self.scores[name] = {**self.scores.get(name, {}), **rounded}

    def _account(self, kept: "Sequence[Example]") -> Selection:
        before = after = None
        own, size = len(self._own), len(self._new)
        if own >= 2 and size >= 2 and own + size <= _MOST_COMPARED:
            kernel = gaussian_kernel(np.vstack([self._own, self._new]))
            places = [own + place for place in self.left]
            before, after = (self._distance(kernel, each) for each in (range(own, own + size), places))
        return Selection(
            embedding=self.embedder.name,
            candidates=size,
            kept=len(kept),
            steps=self.steps,
            before=before,
            after=after,
            leakage=self._leakage(),
            points=self._points() if size else {},
            scores=self.scores,
        )

    def _distance(self, kernel: Vectors, other: Sequence[int]) -> Distance | None:
        own = range(len(self._own))
        return distance(kernel, own, other, self.learner.seed) if len(other) >= 2 else None

    def _leakage(self) -> Leakage | None:
        queries = self.profile.queries
        texts = [query.input for query in queries]
        if not self.task.history_needs_input:
            texts += [query.output for query in queries]
        texts = [text for text in texts if text]
        if not texts or not self.left:
            return None
        held_out = self.embedder(texts, self.progress)
        return leakage(self._own[:, : self._width], self._new[self.left, : self._width], held_out)

    def _points(self) -> dict[str, list[list[float]]]:
        """The two directions in which all examples differ the most (principal components)."""
        rows = np.vstack([self._own, self._new])
        centred = rows - rows.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        axes = axes[:2]
        # The sign of a component is arbitrary: its largest part is made positive.
        axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
        flat = np.round(centred @ axes.T, _DIGITS).tolist()
        new, left = flat[len(self._own) :], set(self.left)
        return {
            "history": flat[: len(self._own)],
            "kept": [point for place, point in enumerate(new) if place in left],
            "refused": [point for place, point in enumerate(new) if place not in left],
        }
