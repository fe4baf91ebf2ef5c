"""Fine-tuning one person's LoRA adapter on real and synthetic examples."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError, TrainingError
from toolkit.files import held, staged_directory
from toolkit.finetune.encode import Encoded, encode_history
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

_SMALLEST_SPLIT = 5  # with fewer examples none is held out


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
    from toolkit.finetune.train import attach_adapter, mean_loss, train

    chat = open_chat(base)
    limit = max_length or recipe.max_length
    training, held_out = split_history(profile.history, recipe.validation, seed)
    # Retrieved from what is trained on alone: the held-out slice must not help to its own answers.
    encode = partial(
        encode_history,
        task=task,
        chat=chat,
        max_length=limit,
        history=training,
        retrieved=recipe.history_in_prompt,
    )
    real, validation = encode(training), encode(held_out)
    both = encode(synthetic, weight=recipe.synthetic_weight)
    if not synthetic and recipe.choose == SYNTHETIC:
        raise EdgePLMError(
            "there are no synthetic examples to train on",
            where="finetune.choose",
            mend="Have some written (a dataset's report says why none was kept), or choose `auto` or `real`",
        )
    arms: dict[str, tuple[Any, ...]] = {}
    if real.examples and recipe.choose != SYNTHETIC:
        arms[REAL] = real.examples
    if both.examples and recipe.choose != REAL:
        arms[SYNTHETIC] = (*real.examples, *both.examples)
    if not arms:
        raise EdgePLMError(
            f"none of the {len(training) + len(synthetic)} examples fits {limit} tokens",
            where=f"user {profile.user_id}",
            mend="Raise finetune.max_length",
        )
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
            if validation.examples and base_loss is None:
                base_loss = mean_loss(model, validation.examples, packed=False)
            adapter = attach_adapter(model, recipe, seed)
            try:
                outcome = train(
                    adapter,
                    examples,
                    recipe,
                    seed=seed,
                    validation=validation.examples,
                    after_epoch=watch.follow(
                        encode(watch.examples), validation.examples, recipe.tokens_per_pass
                    )
                    if watch and name == REAL
                    else None,
                    progress=progress,
                    label=f"Fine-tuning on {name} ({len(examples)} examples)",
                )
            except TrainingError as error:
                raise _rescued(error, adapter, base, recipe, adapter_folder(rescue, name)) from error
            save_for(adapter, adapter_folder(staging, name), base, recipe)
            adapters.append(
                TrainedAdapter(
                    name,
                    len(examples),
                    outcome.steps,
                    outcome.step_losses,
                    outcome.validation_losses,
                    outcome.best_epoch,
                    outcome.packed,
                )
            )
        chosen, reason = choose_adapter(adapters, recipe.choose)
        report = Finetuning(
            adapters,
            chosen,
            reason,
            base_loss,
            [example.id for example in held_out],
            example_ids(real, validation, both, "cut"),
            example_ids(real, validation, both, "dropped"),
            same_answer=len(profile.history) > 1 and len({each.output for each in profile.history}) == 1,
            guard=recipe.guard,
        )
        write_finetuning(staging, report)
    return report


def open_chat(base: BaseModel) -> ChatFormat:
    """The model's tokenizer, chat template and stop tokens."""
    eos = None
    path = base.folder / "generation_config.json"
    if path.is_file():
        eos = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return ChatFormat(load_tokenizer(base), eos)


def split_history(history: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(training, held out): a random `share` of the history is held out, in the history's order."""
    count = round(len(history) * share)
    if share == 0 or len(history) < _SMALLEST_SPLIT:
        return list(history), []
    chosen = set(random.Random(seed).sample(range(len(history)), max(1, count)))  # noqa: S311 - a split
    held_out = [example for index, example in enumerate(history) if index in chosen]
    return [example for index, example in enumerate(history) if index not in chosen], held_out


def choose_adapter(adapters: Sequence[TrainedAdapter], choose: str) -> tuple[str, str]:
    """(name, reason) of the adapter that is kept, for the recipe's `finetune.choose`."""
    if len(adapters) == 1:
        only = adapters[0].name
        return only, "the only one asked for" if choose != "auto" else "no synthetic examples to compare with"
    if any(not adapter.validation_losses for adapter in adapters):
        return REAL, "no example was held out to compare on"
    best = min(adapters, key=lambda adapter: min(adapter.validation_losses))
    losses = ", ".join(f"{a.name} {min(a.validation_losses):.3f}" for a in adapters)
    return best.name, f"lowest loss on the held-out slice of the history ({losses})"


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


def example_ids(real: Encoded, validation: Encoded, synthetic: Encoded, what: str) -> list[str]:
    """Ids of the examples that were `cut` or `dropped`, of all three parts."""
    return [example_id for part in (real, validation, synthetic) for example_id in getattr(part, what)]
