"""Training one person's LoRA adapter."""

import errno
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from toolkit.adapter_record import AdapterRecord, write_record
from toolkit.errors import AdapterError, EdgePLMError, TrainingError
from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.packing import packed_loss, packing_is_exact, padded_loss, passes
from toolkit.progress import SILENT, Progress
from toolkit.recipe import FinetuneRecipe

TOKEN_BUDGET = 1024  # tokens in one forward pass, where no recipe says it


@dataclass(frozen=True)
class Training:
    """How a training went: losses are means over answer tokens, in nats."""

    step_losses: list[float]
    validation_losses: list[float] = field(default_factory=list)
    steps: int = 0
    answer_tokens: int = 0
    packed: bool = True
    best_epoch: int | None = None


def attach_adapter(model: Any, recipe: FinetuneRecipe, seed: int) -> Any:
    """Put a fresh LoRA adapter on `model`; returns PEFT's model.

    Raises AdapterError if the recipe's targets are not in the model, or could not be merged again.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    torch.manual_seed(seed)
    targets: Any = recipe.targets[0] if list(recipe.targets) == ["all-linear"] else list(recipe.targets)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        use_rslora=recipe.rslora,
        use_dora=recipe.dora,
        task_type="CAUSAL_LM",
    )
    try:
        peft_model = get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        )
        raise AdapterError(
            f"no such target modules: {', '.join(recipe.targets)}",
            where="finetune.targets",
            mend=f"This model has: {', '.join(linear)}; or use all-linear",
        ) from error
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.get_text_config().tie_word_embeddings and any(
        isinstance(e, BaseTunerLayer) for e in ends
    ):
        raise AdapterError(
            "this model's output head and embedding are the same weights, so neither can be a target alone",
            where="finetune.targets",
            mend="Leave out lm_head and embed_tokens; all-linear does",
        )
    return peft_model


def train(
    peft_model: Any,
    examples: Sequence[EncodedExample],
    recipe: FinetuneRecipe,
    *,
    seed: int,
    validation: Sequence[EncodedExample] = (),
    after_epoch: Callable[[Any], None] | None = None,
    progress: Progress = SILENT,
    label: str = "Fine-tuning",
) -> Training:
    """Train the adapter in place with AdamW; answer tokens carry the loss.

    With `validation` examples the adapter of the epoch with the lowest validation loss is kept, and training
    stops once `recipe.patience` epochs in a row were no better. `after_epoch` is called with the model.
    Raises TrainingError if the loss is not a number, after putting the last good adapter back.
    """
    if not examples:
        raise EdgePLMError(
            "no example is left to train on", where="finetune", mend="Raise finetune.max_length"
        )
    core = peft_model.base_model.model
    parameters = [p for p in peft_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * math.ceil(len(examples) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(recipe, steps))
    shuffler = random.Random(seed)  # noqa: S311 - order of examples, nothing secret
    order = list(examples)
    peft_model.train()
    by_runs = packing_is_exact(core, order, by_runs=True)
    use_packing = by_runs or packing_is_exact(core, order)
    loss_of = partial(packed_loss, by_runs=by_runs) if use_packing else padded_loss
    losses: list[float] = []
    validation_losses: list[float] = []
    best: tuple[float, int, list[torch.Tensor]] | None = None
    sound: list[torch.Tensor] | None = None  # the last values whose loss was a number
    tokens = 0
    with progress.step(label, total=steps, unit="steps") as advance:
        for epoch in range(recipe.epochs):
            shuffler.shuffle(order)
            for start in range(0, len(order), recipe.batch_size):
                batch = order[start : start + recipe.batch_size]
                count = sum(len(e.answer) for e in batch)
                total = 0.0
                for part in passes(core, batch, recipe.tokens_per_pass, packed=use_packing, by_runs=by_runs):
                    # By the number of tokens, not by their weights, or a batch of light examples would
                    # weigh as much as any other.
                    loss = loss_of(core, part) / count
                    loss.backward()
                    total += loss.item()
                norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
                if not (math.isfinite(total) and math.isfinite(norm.item())):
                    _restore(parameters, best[2] if best else sound)
                    raise diverged(
                        f"the loss is no longer a number at step {len(losses) + 1} of {steps}", batch
                    )
                sound = _copies(parameters)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(total * count / sum(len(e.answer) * e.weight for e in batch))
                tokens += count
                advance(1)
            if after_epoch:
                after_epoch(core)
            if validation:
                held_out = mean_loss(
                    core,
                    validation,
                    packed=use_packing,
                    by_runs=by_runs,
                    token_budget=recipe.tokens_per_pass,
                )
                if not math.isfinite(held_out):
                    _restore(parameters, best[2] if best else sound)
                    raise diverged(
                        f"the validation loss is no longer a number after epoch {epoch + 1}", validation
                    )
                validation_losses.append(held_out)
                if best is None or held_out < best[0]:
                    best = (held_out, epoch, _copies(parameters))
                elif recipe.patience and epoch - best[1] >= recipe.patience:
                    break
    if best:
        _restore(parameters, best[2])
    peft_model.eval()
    return Training(
        losses, validation_losses, len(losses), tokens, use_packing, best[1] + 1 if best else None
    )


def learning_rate_factor(recipe: FinetuneRecipe, steps: int) -> Callable[[int], float]:
    """The learning rate at a step (from 0), as a share of its peak: warm-up, then the recipe's schedule.

    No step of a short training is wasted on a rate of 0, neither the first nor the last.
    """
    warmup = max(1, round(recipe.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup or recipe.schedule == "constant":
            return min(1.0, (step + 1) / warmup)
        left = (steps - step) / (steps - warmup + 1)  # 1 at the peak
        return left if recipe.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)

    return factor


@torch.no_grad()
def mean_loss(
    model: Any,
    examples: Sequence[EncodedExample],
    *,
    packed: bool = True,
    by_runs: bool = False,
    token_budget: int = TOKEN_BUDGET,
) -> float:
    """Mean negative log-likelihood of the answer tokens, in nats."""
    training = model.training
    model.eval()
    loss_of = partial(packed_loss, by_runs=by_runs) if packed else padded_loss
    parts = passes(model, examples, token_budget, packed=packed, by_runs=by_runs)
    total = sum(float(loss_of(model, part)) for part in parts)
    model.train(training)
    return total / sum(len(e.answer) * e.weight for e in examples)


def save_adapter(
    peft_model: Any,
    folder: Path,
    base_source: str,
    *,
    base_sha256: str | None = None,
    history_in_prompt: int = 0,
) -> None:
    """Write PEFT's own folder into `folder`; vanilla PEFT loads it.

    With `base_sha256` a record of the base goes beside it (`toolkit.adapter_record`). Raises OSError if the
    disk is full.
    """
    from safetensors import SafetensorError

    for config in peft_model.peft_config.values():
        config.base_model_name_or_path = base_source
        config.inference_mode = True
    try:
        # PEFT's default would ask a hub for the base model's configuration.
        peft_model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    except SafetensorError as error:  # what the library makes of an error of the system
        raise OSError(errno.EIO, f"cannot be written ({error})", str(folder)) from error
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    if base_sha256:
        write_record(folder, AdapterRecord(base_source, base_sha256, history_in_prompt))


def diverged(what: str, examples: Sequence[EncodedExample]) -> TrainingError:
    """The error for a loss that is no longer a number; it names the examples of that step."""
    return TrainingError(
        what,
        where=f"finetune, batch of {', '.join(example.id for example in examples)}",
        mend="Lower finetune.learning_rate, or look at these examples",
    )


def _copies(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _restore(parameters: Sequence[torch.Tensor], values: Sequence[torch.Tensor] | None) -> None:
    if values is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
