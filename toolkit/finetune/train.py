"""Training one person's LoRA adapter."""

import errno
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from toolkit.adapter_record import AdapterRecord, write_record
from toolkit.errors import AdapterError, EdgePLMError
from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.layers import TrainingLayers, training_layers
from toolkit.finetune.learner import Ask, Training, learn, step_count
from toolkit.progress import SILENT, Progress
from toolkit.recipe import FinetuneRecipe


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
    measure_base: bool = False,
    after_epoch: Callable[[Any], None] | None = None,
    progress: Progress = SILENT,
    label: str = "Fine-tuning",
) -> Training:
    """Train the adapter in place; answer tokens carry the loss. The steps are those of `learn`.

    `after_epoch` is called with the model as the epoch has left it. Raises EdgePLMError without examples, and
    TrainingError if the loss is not a number, after putting the last good adapter back.
    """
    if not examples:
        raise EdgePLMError(
            "no example is left to train on", where="finetune", mend="Raise finetune.max_length"
        )
    core = peft_model.base_model.model
    layers = training_layers(peft_model, examples, recipe.tokens_per_pass)

    def epoch_ended() -> None:
        if after_epoch:
            layers.publish()
            after_epoch(core)

    try:
        with progress.step(label, total=step_count(recipe, len(examples)), unit="steps") as advance:
            work = learn(
                layers.parameter,
                examples,
                validation,
                recipe,
                seed,
                split=layers.split,
                measure_base=measure_base,
                after_step=partial(advance, 1),
                after_epoch=epoch_ended,
            )
            training = _led(work, peft_model, layers)
    finally:
        layers.close()
        peft_model.eval()
    return replace(training, packed=layers.packed)


def _led(work: Generator[Ask, float, Training], peft_model: Any, layers: TrainingLayers) -> Training:
    """Compute what `work` asks for until it is done."""
    try:
        ask = next(work)
        while True:
            training = ask.tokens is not None
            peft_model.train(training)
            with torch.set_grad_enabled(training):
                loss = layers.loss(ask.examples)
            if ask.tokens is not None:
                (loss / ask.tokens).backward()
            ask = work.send(loss.item())
    except StopIteration as done:
        result: Training = done.value
        return result


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
