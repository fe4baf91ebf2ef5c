"""Fine-tuning one person's LoRA adapter on real and synthetic examples."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.chat import ChatFormat
from toolkit.errors import TrainingError
from toolkit.files import held, staged_directory
from toolkit.finetune.draft import draft_of, split_history
from toolkit.finetune.result import (
    REAL,
    SYNTHETIC,
    Finetuning,
    TrainedAdapter,
    adapter_folder,
    read_finetuning,
    write_finetuning,
)
from toolkit.models import BaseModel, load_model, load_tokenizer
from toolkit.profiles import Example, Profile
from toolkit.progress import SILENT, Progress
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task

if TYPE_CHECKING:
    from toolkit.finetune.scoring import Watch

__all__ = [
    "REAL",
    "SYNTHETIC",
    "Finetuning",
    "TrainedAdapter",
    "adapter_folder",
    "finetune",
    "open_chat",
    "read_finetuning",
    "split_history",
]


def finetune(
    base: BaseModel,
    profile: Profile,
    task: Task,
    recipe: FinetuneRecipe,
    out: Path,
    *,
    synthetic: Sequence[Example] = (),
    prepare: Callable[[Any], None] | None = None,
    watch: "Watch | None" = None,
    done: Path | None = None,
    max_length: int | None = None,
    rescue: Path | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = SILENT,
) -> Finetuning:
    """Train an adapter on the real examples and, if there are synthetic ones, another on both.

    Each goes into `out/NAME` in PEFT's own format, the report into `out/training.json`. A slice of the
    history (`recipe.validation`) is held out to choose the best epoch and between the adapters; the held-out
    queries are never looked at. `prepare` may change the frozen base before each training, in place: to the
    values of its quantised weights, for quantisation-aware training. `watch` is told the losses of its
    examples while the adapter on the real ones is trained; `done` is a folder where the same call has trained
    that one already, which is then taken over. Raises EdgePLMError if no example is
    left to train on or another process is writing into `out`; TrainingError if the loss diverges, after
    writing the last good adapter into `rescue` (unless given, `out` with -stopped behind its name).
    """
    from toolkit.finetune.train import attach_adapter, train

    limit = max_length or recipe.max_length
    draft = draft_of(profile, synthetic, task, open_chat(base), recipe, limit=limit, seed=seed)
    arms, validation = dict(draft.arms), draft.history.validation.examples
    adapters: list[TrainedAdapter] = []
    base_loss = None
    rescue = rescue or out.with_name(f"{out.name}-stopped")
    with held(out), staged_directory(out, force=force) as staging:
        if done and REAL in arms:
            before = read_finetuning(done)
            base_loss = before.base_validation_loss
            adapters += [each for each in before.adapters if each.name == REAL]
            shutil.copytree(adapter_folder(done, REAL), adapter_folder(staging, REAL))
            del arms[REAL]
        for name, examples in arms.items():
            model = load_model(base)
            if prepare:
                prepare(model)
            adapter = attach_adapter(model, recipe, seed)
            follow = None
            if watch and name == REAL:
                follow = watch.follow(
                    draft.history.encode(watch.examples), validation, recipe.tokens_per_pass
                )
            try:
                training = train(
                    adapter,
                    examples,
                    recipe,
                    seed=seed,
                    validation=validation,
                    measure_base=base_loss is None,
                    after_epoch=follow,
                    progress=progress,
                    label=f"Fine-tuning on {name} ({len(examples)} examples)",
                )
            except TrainingError as error:
                raise _rescued(error, adapter, base, recipe, adapter_folder(rescue, name)) from error
            save_for(adapter, adapter_folder(staging, name), base, recipe)
            adapters.append(TrainedAdapter.of(name, len(examples), training))
            if base_loss is None:
                base_loss = training.base_validation_loss
        report = draft.report(adapters, base_loss)
        write_finetuning(staging, report)
    return report


def open_chat(base: BaseModel) -> ChatFormat:
    """The model's tokenizer, chat template and stop tokens."""
    eos = None
    path = base.folder / "generation_config.json"
    if path.is_file():
        eos = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return ChatFormat(load_tokenizer(base), eos)


def save_for(adapter: Any, folder: Path, base: BaseModel, recipe: FinetuneRecipe) -> None:
    """Write an adapter of `base` into `folder`, with the record that says how it is asked."""
    from toolkit.finetune.train import save_adapter

    save_adapter(
        adapter,
        folder,
        base.source,
        base_sha256=base.sha256,
        history_in_prompt=recipe.history_in_prompt,
    )


def _rescued(
    error: TrainingError, adapter: Any, base: BaseModel, recipe: FinetuneRecipe, folder: Path
) -> TrainingError:
    """The same error, saying where the last good adapter is; there is none if it never left its beginning."""
    if not any(bool(weight.any()) for name, weight in adapter.named_parameters() if "lora_B" in name):
        return error
    with staged_directory(folder, force=True) as staging:
        save_for(adapter, staging, base, recipe)
    mend = f"The last good adapter is in {folder}. {error.mend}"
    return TrainingError(error.what, where=error.where, mend=mend)
