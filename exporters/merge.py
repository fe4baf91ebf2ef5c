"""Merging a LoRA adapter into float weights. Never into quantised ones: an int4 step is often larger than the
adapter's change of a weight, which would round the personalisation away."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.adapter_record import read_record
from toolkit.errors import AdapterError
from toolkit.files import sha256_of


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter folder says of itself; `targets` are kinds of layers, such as q_proj.

    `base_sha256` is of its base's weights, and known where EdgePLM trained it.
    """

    rank: int
    alpha: float
    targets: list[str]
    base: str | None
    sha256: str
    base_sha256: str | None = None
    history_in_prompt: int = 0


def read_adapter(folder: Path) -> AdapterFacts:
    """Read PEFT's `adapter_config.json`; raises AdapterError if it is not a LoRA adapter in safetensors."""
    mend = "Give the folder that `edgeplm finetune` or PEFT's save_pretrained wrote"
    if not folder.is_dir():
        raise AdapterError("no such folder", where=str(folder), mend=mend)
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for needed in (path, weights):
        if not needed.is_file():
            # `edgeplm finetune` writes an adapter a folder into the one that it is given.
            below = sorted(str(each.parent) for each in folder.glob(f"*/{path.name}"))
            raise AdapterError(
                f"has no {needed.name}",
                where=str(folder),
                mend=f"Give one of the adapters in it: {', '.join(below)}" if below else mend,
            )
    try:
        config = json.loads(path.read_bytes().decode("utf-8"))
        kind = config["peft_type"]
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"is not PEFT's configuration ({error!r})", where=str(path), mend=mend) from None
    if kind != "LORA":
        raise AdapterError(f"is a {kind} adapter", where=str(path), mend="Only LoRA adapters can be exported")
    targets = config.get("target_modules") or []
    record = read_record(folder)
    return AdapterFacts(
        rank,
        alpha,
        # PEFT writes out every layer's own name for all-linear.
        [targets] if isinstance(targets, str) else sorted({name.rpartition(".")[2] for name in targets}),
        config.get("base_model_name_or_path"),
        sha256_of(weights),
        record.base_sha256 if record else None,
        record.history_in_prompt if record else 0,
    )


def check_base(facts: AdapterFacts, folder: Path, source: str, sha256: str) -> None:
    """Raise AdapterError if the adapter in `folder` is known to be of another base than the one named."""
    if facts.base_sha256 and facts.base_sha256 != sha256:
        raise AdapterError(
            f"was trained on {facts.base} (weights {facts.base_sha256[:12]}), not on {source} (weights "
            f"{sha256[:12]})",
            where=str(folder),
            mend="Give its own base model, with the same task adapter",
        )


def merge_adapter(model: Any, folder: Path) -> Any:
    """Merge the adapter in `folder` into float `model` (changed in place) and return the plain model.

    Raises AdapterError if the weights cannot be read, do not fit the model, or change nothing.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    facts = read_adapter(folder)
    if model.dtype.itemsize < 2 or getattr(model, "is_quantized", False):
        raise AdapterError("adapters are merged into float weights only", where=str(folder))
    try:
        peft_model = PeftModel.from_pretrained(model, str(folder))
    except SafetensorError as error:
        raise AdapterError(
            f"is cut short or damaged ({error})",
            where=str(folder / "adapter_model.safetensors"),
            mend="Copy the adapter again",
        ) from error
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["unreadable"])[0][:200]
        raise AdapterError(
            f"does not fit the base model ({reason})",
            where=str(folder),
            mend=_other_base(facts),
        ) from error
    _check_loaded(peft_model, folder, facts)
    return peft_model.merge_and_unload()


def _check_loaded(peft_model: Any, folder: Path, facts: AdapterFacts) -> None:
    """What PEFT lets pass with a warning, or without one."""
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        given = {name for name in file.keys() if ".lora_" in name}  # noqa: SIM118 - no mapping
    loaded = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    expected = {name for name in loaded if ".lora_" in name}
    if strays := sorted(given ^ expected):
        state = "is missing" if strays[0] in expected else "has no place in the model"
        raise AdapterError(
            f"does not fit the base model ({len(strays)} tensors; {strays[0]} {state})",
            where=str(folder),
            mend=_other_base(facts),
        )
    if not all(bool(tensor.isfinite().all()) for tensor in loaded.values()):
        raise AdapterError("holds values that are not numbers", where=str(folder), mend="Fine-tune it again")
    if not any(bool(loaded[name].any()) for name in expected if ".lora_B" in name or "_embedding_B" in name):
        raise AdapterError(
            "changes nothing: its B matrices are all zero", where=str(folder), mend="Fine-tune it first"
        )
    base = peft_model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if base.config.get_text_config().tie_word_embeddings and any(isinstance(e, BaseTunerLayer) for e in ends):
        raise AdapterError(
            "changes the output head or the embedding, which are the same weights in this model, so that "
            "merging would change both",
            where=str(folder),
            mend="Fine-tune it without lm_head and embed_tokens",
        )


def _other_base(facts: AdapterFacts) -> str:
    return f"It was trained on {facts.base or 'an unnamed base'}: give that with --model"
