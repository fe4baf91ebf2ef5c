"""The model that is to learn from the examples: asked before, and watched while it learns the real ones."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.augment.selection.instruction import following_difficulty
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.finetune.scoring import Watch
    from toolkit.models import BaseModel
    from toolkit.profiles import Example, Profile
    from toolkit.recipe import FinetuneRecipe
    from toolkit.tasks import Task


@dataclass(frozen=True)
class Learner:
    """A base model, and for whom and how it will be trained.

    `prepare` and `rescue` are as `toolkit.finetune.finetune` takes them. `folder`: where the adapter on the
    real examples is kept, for `finetune` to take over; by default it is thrown away.
    """

    base: "BaseModel"
    profile: "Profile"
    task: "Task"
    recipe: "FinetuneRecipe"
    seed: int = 0
    prepare: Callable[[Any], None] | None = None
    folder: Path | None = None
    rescue: Path | None = None

    def following(self, examples: "Sequence[Example]", progress: Progress = SILENT) -> dict[str, float]:
        """id -> instruction-following difficulty, before any training."""
        from toolkit.finetune import open_chat
        from toolkit.models import load_model

        return following_difficulty(
            load_model(self.base),
            open_chat(self.base),
            self.task,
            examples,
            max_length=self.recipe.max_length,
            progress=progress,
        )

    def held_out(self) -> int:
        """How many examples the training will hold out."""
        from toolkit.finetune import split_history

        return len(split_history(self.profile.history, self.recipe.validation, self.seed)[1])

    def learn(self, examples: "Sequence[Example]", progress: Progress = SILENT) -> "Watch":
        """Train on the real examples alone; the losses of `examples` on the way."""
        from toolkit.finetune import finetune
        from toolkit.finetune.scoring import Watch

        watch = Watch(examples)
        with tempfile.TemporaryDirectory() as scratch:
            finetune(
                self.base,
                self.profile,
                self.task,
                replace(self.recipe, choose="real"),
                self.folder or Path(scratch) / "real",
                prepare=self.prepare,
                watch=watch,
                rescue=self.rescue,
                seed=self.seed,
                force=True,
                progress=progress,
            )
        return watch
