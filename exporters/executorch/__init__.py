"""ExecuTorch programs for XNNPACK, made from transformers models and calibrated integer weights."""

from pathlib import Path
from typing import Any

import torch

from exporters.executorch.decoder import Decoder
from exporters.executorch.slots import TEMPLATE, Slots, write_person, write_slots
from exporters.quantise.grid import QuantisedWeight
from toolkit.errors import ModelError
from toolkit.native_output import natively_hushed
from toolkit.progress import SILENT, Progress

PROGRAM = "model.pte"

# Architectures whose layers the decoder rebuilds; the value says whether they are Gemma's, whose norms scale
# by 1 + w and are two more in a layer.
_ARCHITECTURES = {
    "Gemma3ForCausalLM": True,
    "LlamaForCausalLM": False,
    "Qwen2ForCausalLM": False,
    "Qwen3ForCausalLM": False,
}
# Rotary embeddings that are a table of positions; the others depend on how long the prompt is.
_ROTARY = {"default", "linear", "llama3", "yarn"}


def build_executorch(
    model: Any,
    weights: dict[str, QuantisedWeight],
    out: Path,
    *,
    context_length: int,
    bos: int | None,
    stop: list[int],
    slots: Slots | None = None,
    progress: Progress = SILENT,
) -> None:
    """Write `out`/model.pte: (tokens int64 [1, T], input_pos int64 [1]) to the last logits [1, vocab].

    `model` is a float32 causal LM of transformers and stays as it is. `weights` holds linear layers on
    XNNPACK's grids by module name; layers not in it stay float32. A tied embedding uses the head's codes.
    With `slots` the weights go to base.ptd, which the program needs beside it, and `slots.write_person` makes
    more programs over the same base from slots.json and slots.pte.
    Raises ModelError if the architecture is not supported or its graph would answer differently.
    """
    from exporters.executorch.lowering import register_operators, write_program

    check_supported(model)
    config = model.config.get_text_config()
    register_operators()
    gemma = _ARCHITECTURES[model.config.architectures[0]]
    with torch.no_grad():
        _check_graph(model, Decoder(model, {}, context_length, gemma))
        decoder = Decoder(model, weights, context_length, gemma, slots).eval()
    # What ExecuTorch's LLM runners read. Without get_max_context_len they fall back to 128.
    metadata: dict[str, Any] = {
        "get_eos_ids": stop,
        "get_max_seq_len": context_length,
        "get_max_context_len": context_length,
        "get_vocab_size": config.vocab_size,
        "get_n_layers": config.num_hidden_layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }
    if bos is not None:
        metadata["get_bos_id"] = bos
    if slots is None:
        write_program(decoder, metadata, out / PROGRAM, progress=progress)
        return
    if not slots.shapes:
        raise ModelError(
            f"no integer layer of the model is one of {', '.join(slots.targets)}",
            where="export",
            mend="Attached adapters need an integer base and the names of its layers",
        )
    write_program(decoder, metadata, out / TEMPLATE, slots=slots, progress=progress)
    write_slots(slots, out)
    write_person(out, {}, out / PROGRAM)


def supported_architectures() -> list[str]:
    """The architectures that can be exported, as transformers names them."""
    return sorted(_ARCHITECTURES)


def check_supported(model: Any) -> None:
    """ModelError unless `model` can be exported; it names the architectures that can."""
    architecture = (model.config.architectures or [type(model).__name__])[0]
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"the architecture {architecture} cannot be exported to ExecuTorch",
            where="export",
            mend=f"Supported: {', '.join(supported_architectures())}",
        )
    rope = model.config.get_text_config().rope_parameters or {}
    kinds = [each for each in rope.values() if isinstance(each, dict)] or [rope]
    strange = sorted({each.get("rope_type", "default") for each in kinds} - _ROTARY)
    if strange:
        raise ModelError(
            f"its rotary scaling ({', '.join(strange)}) cannot be exported to ExecuTorch",
            where="export",
            mend=f"Models with rope_type {', '.join(sorted(_ROTARY))} can",
        )


def _check_graph(model: Any, decoder: Decoder) -> None:
    """ModelError unless the rebuilt graph answers as transformers' own, in prefill and in decode."""
    count = min(16, decoder.context_length - 1)
    tokens = torch.arange(1, count + 1).unsqueeze(0)
    expected = model(input_ids=tokens).logits[0, -1].float()
    with natively_hushed():
        decoder(tokens[:, :-1], torch.tensor([0]))
        found = decoder(tokens[:, -1:], torch.tensor([count - 1]))[0]
    worst = (found - expected).abs().max().item()
    if not worst <= 1e-3 * max(1.0, expected.abs().max().item()):
        raise ModelError(
            f"its graph for ExecuTorch gives other logits than transformers (by {worst:.3g})",
            where="export",
            mend="Its config.json has a setting that the exporter does not know; export it to ONNX instead",
        )
