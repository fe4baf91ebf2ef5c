"""Selection by models: which of a teacher's examples are worth training on."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from toolkit.augment.selection.learner import Learner
from toolkit.augment.selection.outcome import MODEL_FILTERS, Distance, Leakage, Selection, Step
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.augment.selection.select import Selected
    from toolkit.profiles import Example, Profile
    from toolkit.recipe_select import SelectRecipe
    from toolkit.tasks import Task

__all__ = [
    "MODEL_FILTERS",
    "Chooser",
    "Distance",
    "Leakage",
    "Learner",
    "Selection",
    "Step",
    "candidates_for",
    "open_selection",
]

Chooser = Callable[["Sequence[Example]"], "Selected"]


def candidates_for(wanted: int, recipe: "SelectRecipe") -> int:
    """How many examples to have written, so that `wanted` can be chosen from them."""
    return math.ceil(wanted * recipe.candidates - 1e-9) if recipe.enabled else wanted


def open_selection(
    profile: "Profile",
    task: "Task",
    recipe: "SelectRecipe",
    wanted: int,
    learner: Learner,
    progress: Progress = SILENT,
) -> Chooser | None:
    """What chooses at most `wanted` of the candidates for a person; None if the recipe turns it off.

    The embedding model is opened here, before any teacher is asked. Raises ModelError if it cannot be.
    """
    if not recipe.enabled:
        return None
    from toolkit.augment.selection.embedding import open_embedder
    from toolkit.augment.selection.select import select

    embedder = open_embedder(recipe.embedding, learner.base, progress)

    def choose(candidates: "Sequence[Example]") -> "Selected":
        return select(
            candidates, profile, task, recipe, wanted, embedder=embedder, learner=learner, progress=progress
        )

    return choose
