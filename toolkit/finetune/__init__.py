"""Fine-tuning one person's LoRA adapter on real and synthetic examples."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError
from toolkit.files import staged_directory, write_atomic
from toolkit.finetune.encode import Encoded, encode_history
from toolkit.models import BaseModel, load_model, load_tokenizer
from toolkit.profiles import Example, Profile
from toolkit.progress import SILENT, Progress
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task

REAL, SYNTHETIC = "real", "real+synthetic"
_REPORT = "training.json"
_SMALLEST_SPLIT = 5  # with fewer examples none is held out


@dataclass(frozen=True)
class TrainedAdapter:
    """One adapter and how its training went; losses are means over answer tokens, in nats."""

    name: str
    examples: int
    steps: int
    step_losses: list[float]
    validation_losses: list[float]
    best_epoch: int | None
    packed: bool


@dataclass(frozen=True)
class Finetuning:
    """The adapters of a run: which one was chosen and why."""

    adapters: list[TrainedAdapter]
    chosen: str
    reason: str
    base_validation_loss: float | None
    validation_ids: list[str]
    cut: list[str]
    dropped: list[str]

    @property
    def best_validation_loss(self) -> float | None:
        """Lowest validation loss of the chosen adapter."""
        losses = next(a.validation_losses for a in self.adapters if a.name == self.chosen)
        return min(losses, default=None)

    @property
    def better_than_base(self) -> bool | None:
        """Whether the chosen adapter beats the base on the held-out slice; None where none was held out."""
        best = self.best_validation_loss
        return None if best is None or self.base_validation_loss is None else best < self.base_validation_loss


def finetune(
    base: BaseModel,
    profile: Profile,
    task: Task,
    recipe: FinetuneRecipe,
    out: Path,
    *,
    synthetic: Sequence[Example] = (),
    prepare: Callable[[Any], None] | None = None,
    max_length: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = SILENT,
) -> Finetuning:
    """Train an adapter on the real examples and, if there are synthetic ones, another on both.

    Each goes into `out/NAME` in PEFT's own format, the report into `out/training.json`. A slice of the
    history (`recipe.validation`) is held out to choose the best epoch and between the adapters; the held-out
    queries are never looked at. `prepare` may change the frozen base before each training, in place: to the
    values of its quantised weights, for quantisation-aware training. Raises EdgePLMError if no example is
    left to train on or the loss diverges.
    """
    from toolkit.finetune.train import attach_adapter, mean_loss, save_adapter, train

    chat = open_chat(base)
    limit = max_length or recipe.max_length
    training, held_out = split_history(profile.history, recipe.validation, seed)
    real = encode_history(training, task, chat, max_length=limit)
    validation = encode_history(held_out, task, chat, max_length=limit)
    both = encode_history(synthetic, task, chat, max_length=limit, weight=recipe.synthetic_weight)
    if not synthetic and recipe.choose == SYNTHETIC:
        raise EdgePLMError(
            "there are no synthetic examples",
            where="finetune.choose",
            mend="Turn on augment, or choose `auto` or `real`",
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
    with staged_directory(out, force=force) as staging:
        for name, examples in arms.items():
            model = load_model(base)
            if prepare:
                prepare(model)
            if validation.examples and base_loss is None:
                base_loss = mean_loss(model, validation.examples, packed=False)
            adapter = attach_adapter(model, recipe, seed)
            outcome = train(
                adapter,
                examples,
                recipe,
                seed=seed,
                validation=validation.examples,
                progress=progress,
                label=f"Fine-tuning on {name} ({len(examples)} examples)",
            )
            save_adapter(adapter, staging / _folder_name(name), base.source)
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
        chosen, reason = _choose(adapters, recipe.choose)
        report = Finetuning(
            adapters,
            chosen,
            reason,
            base_loss,
            [example.id for example in held_out],
            _ids(real, validation, both, "cut"),
            _ids(real, validation, both, "dropped"),
        )
        write_atomic(staging / _REPORT, json.dumps(asdict(report), indent=1) + "\n")
    return report


def read_finetuning(folder: Path) -> Finetuning:
    """What `finetune` reported into `folder`."""
    data = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    data["adapters"] = [TrainedAdapter(**adapter) for adapter in data["adapters"]]
    return Finetuning(**data)


def adapter_folder(folder: Path, name: str) -> Path:
    """Where `finetune` put the adapter `name`."""
    return folder / _folder_name(name)


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


def _choose(adapters: Sequence[TrainedAdapter], choose: str) -> tuple[str, str]:
    if len(adapters) == 1:
        only = adapters[0].name
        return only, "the only one asked for" if choose != "auto" else "no synthetic examples to compare with"
    if any(not adapter.validation_losses for adapter in adapters):
        return REAL, "no example was held out to compare on"
    best = min(adapters, key=lambda adapter: min(adapter.validation_losses))
    losses = ", ".join(f"{a.name} {min(a.validation_losses):.3f}" for a in adapters)
    return best.name, f"lowest loss on the held-out slice of the history ({losses})"


def _folder_name(name: str) -> str:
    return name.replace("+", "-and-")


def _ids(real: Encoded, validation: Encoded, synthetic: Encoded, what: str) -> list[str]:
    return [example_id for part in (real, validation, synthetic) for example_id in getattr(part, what)]
