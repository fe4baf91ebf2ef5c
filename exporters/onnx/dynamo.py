"""The fallback graph: torch's own ONNX exporter, for decoders that onnxruntime-genai's builder lacks.

The graph has the builder's inputs and outputs, so `onnxruntime_genai.Model(folder)` runs it: input_ids,
attention_mask, position_ids, past_key_values.N.key/value -> logits of the last token, present.N.key/value,
all of dynamic batch, prompt and cache length. The cache is concatenated, not a buffer shared between steps.

Weights keep transformers' names; see `exporters.onnx.tidy`.

No graph leaves here unchecked: the runtime's logits are compared with torch's, since an exporter can be wrong
without a word.
"""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from exporters.onnx.builder import supported_architectures
from exporters.onnx.tidy import name_linears, tidy
from toolkit.errors import ModelError
from toolkit.files import write_atomic
from toolkit.progress import hushed

OPSET = 23  # the first with Attention and RotaryEmbedding
_TOKENIZER_FILES = ("tokenizer*", "*_tokens*.json", "vocab.*", "merges.txt", "*.jinja")
_TOLERANCE = 1e-3  # of the largest logit
# Lengths at which a model may compute differently: windows of attention, the reach of rotary scaling.
_BENDS = ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")


class CacheShape(NamedTuple):
    """What one token takes in the KV cache: layers, and in each of them heads of so many values."""

    layers: int
    heads: int
    head_size: int


def build_onnx_dynamo(
    model: Any, folder_of_tokenizer: Path, out: Path, *, context_length: int, stop: list[int]
) -> None:
    """Write model.onnx in float32, its data, the tokenizer's files and genai_config.json into `out`.

    `model` is a float32 decoder of transformers; `context_length` is prompt and answer together, in tokens.
    Raises ModelError if torch cannot export it, or if the graph's logits are not torch's.
    """
    shape = _cache_shape(model)
    out.mkdir(parents=True, exist_ok=True)
    program = _traced(model, shape)
    tidy(program)
    name_linears(program, model)
    _save(program, shape, out / "model.onnx")
    for pattern in _TOKENIZER_FILES:
        for file in folder_of_tokenizer.glob(pattern):
            shutil.copy2(file, out / file.name)
    settings = genai_settings(model.config, shape, context_length, stop)
    write_atomic(out / "genai_config.json", json.dumps(settings, indent=4) + "\n")
    check_graph(model, out, context_length)


def genai_settings(config: Any, shape: CacheShape, context_length: int, stop: list[int]) -> dict[str, Any]:
    """genai_config.json for the graph: a decoder of no kind in particular, greedy, its cache not shared."""
    return {
        "model": {
            "type": "decoder",
            "vocab_size": config.vocab_size,
            "context_length": context_length,
            "bos_token_id": config.bos_token_id if config.bos_token_id is not None else stop[0],
            "eos_token_id": stop[0] if len(stop) == 1 else stop,
            "pad_token_id": config.pad_token_id if config.pad_token_id is not None else stop[0],
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": shape.layers,
                "num_key_value_heads": shape.heads,
                "head_size": shape.head_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "max_length": context_length,
            "do_sample": False,
            "num_beams": 1,
            "past_present_share_buffer": False,
        },
    }


def check_graph(model: Any, folder: Path, context_length: int) -> None:
    """Compare the runtime's logits with torch's: prompts, a token decoded after each, and a second turn.

    Raises ModelError if onnxruntime-genai cannot run `folder`, or its logits are not those of `model`.
    """
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    try:
        runtime = og.Model(os.fspath(folder))
        for pieces in _conversations(model.config, context_length):
            ids = np.random.RandomState(0).randint(0, model.config.vocab_size, sum(pieces))
            with torch.no_grad():
                wanted = model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
            parameters = og.GeneratorParams(runtime)
            parameters.set_search_options(max_length=context_length, do_sample=False)
            generator, start = og.Generator(runtime, parameters), 0
            for piece in pieces:
                generator.append_tokens(ids[None, start : start + piece].astype(np.int32))
                start += piece
                _compare(model, np.asarray(generator.get_logits()).reshape(-1), wanted[start - 1], start)
    except RuntimeError as error:
        raise _unsupported(model, f"onnxruntime-genai cannot run its graph: {_first_line(error)}") from error


class _WithPlainCache(torch.nn.Module):
    """The model as a function of tensors alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        from transformers import DynamicCache

        # Without a configuration every layer keeps the whole past; a window is left to the mask.
        made = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=DynamicCache(past),
            use_cache=True,
            logits_to_keep=1,  # nobody reads a prompt's others
        )
        return made.logits, [(layer.keys, layer.values) for layer in made.cache.layers]


def _cache_shape(model: Any) -> CacheShape:
    """Seen on a short prompt, since every architecture writes it otherwise in its configuration."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise _unsupported(model, "it has an encoder")
    with torch.no_grad():
        made = model(input_ids=torch.tensor([[0, 1, 2]]), use_cache=True)
    layers = getattr(getattr(made, "cache", None), "layers", None) or []
    shapes = {
        tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else ()
        for layer in layers
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
    }
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise _unsupported(model, "its memory is not one cache of keys and values, alike in every layer")
    _, heads, _, head_size = shapes.pop()
    return CacheShape(len(layers), heads, head_size)


def _traced(model: Any, shape: CacheShape) -> Any:
    """The graph as torch translates it, an onnx_ir.Model; its inputs and outputs have their names."""
    batch, tokens, before = 2, 3, 5  # an example: none of them 0 or 1, which torch would take for fixed
    past = [
        tuple(torch.zeros(batch, shape.heads, before, shape.head_size) for _ in range(2))
        for _ in range(shape.layers)
    ]
    example = (
        torch.zeros(batch, tokens, dtype=torch.long),
        torch.ones(batch, before + tokens, dtype=torch.long),
        torch.arange(before, before + tokens).repeat(batch, 1),
        past,
    )
    dim = torch.export.Dim
    # One name for all layers' caches: were they independent, torch would prove them equal layer by layer.
    rows, sequence, cached = dim("batch_size"), dim("sequence_length"), dim("past_sequence_length")
    layer = ({0: rows, 2: cached}, {0: rows, 2: cached})
    whole = {0: rows, 1: dim.DYNAMIC}
    shapes = ({0: rows, 1: sequence}, whole, {0: rows, 1: sequence}, [layer] * shape.layers)
    names = [f"{i}.{part}" for i in range(shape.layers) for part in ("key", "value")]
    with _exporting(), torch.no_grad():
        try:
            exported = torch.export.export(
                _WithPlainCache(model), example, dynamic_shapes=shapes, strict=False
            )
            made: Any = torch.onnx.export(
                exported,
                opset_version=OPSET,
                dynamo=True,
                optimize=False,  # minutes in onnxscript 0.7, a rule of which pairs all nodes; see `tidy`
                verbose=False,
                input_names=[
                    "input_ids", "attention_mask", "position_ids", *(f"past_key_values.{n}" for n in names)
                ],
                output_names=["logits", *(f"present.{n}" for n in names)],
            )  # fmt: skip
        except Exception as error:  # torch.export has no narrower kind
            raise _unsupported(model, f"torch cannot export it: {_first_line(error)}") from error
    return made.model


def _save(program: Any, shape: CacheShape, path: Path) -> None:
    """Write the graph with plain names for the dimensions of its inputs and outputs.

    Shapes in between are left to the runtime, since torch's names for dimensions say nothing to anybody.
    """
    import onnx_ir as ir

    for node in program.graph:
        for value in node.outputs:
            value.shape = None
    rows, sequence, before, total = (
        "batch_size",
        "sequence_length",
        "past_sequence_length",
        "total_sequence_length",
    )
    for value in (*program.graph.inputs, *program.graph.outputs):
        kind = value.name.partition(".")[0]
        value.shape = ir.Shape(
            {
                "attention_mask": [rows, total],
                "past_key_values": [rows, shape.heads, before, shape.head_size],
                "present": [rows, shape.heads, total, shape.head_size],
                "logits": [rows, 1, None],
            }.get(kind, [rows, sequence])
        )
    ir.save(program, path, external_data=f"{path.name}.data")


def _conversations(config: Any, context_length: int) -> Iterator[tuple[int, int, int]]:
    """Lengths of a prompt, one decoded token and another turn: short ones, and past every bend."""
    rope = getattr(config, "rope_parameters", None) or {}
    bends = [getattr(config, name, None) for name in _BENDS] + [rope.get(name) for name in _BENDS]
    reached = [bend for bend in bends if isinstance(bend, int) and bend < context_length]
    longest = context_length - 4
    for length in sorted({min(7, longest), min(max([64, *reached]) + 8, longest)}):
        yield length, 1, 3


def _compare(model: Any, found: Any, wanted: Any, length: int) -> None:
    off = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("nan")
    # Rounding grows with the logits; a wrong graph is off by whole units.
    if not off <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise _unsupported(model, f"its graph's logits are off by {off:.3g} after {length} tokens")


def _unsupported(model: Any, reason: str) -> ModelError:
    return ModelError(
        f"the architecture {type(model).__name__} cannot be exported to ONNX Runtime GenAI ({reason})",
        where="export",
        mend=f"Supported: {', '.join(supported_architectures())}, and decoders whose only memory is a cache "
        "of keys and values, alike in every layer",
    )


def _first_line(error: BaseException) -> str:
    while error.__cause__:  # torch puts pages of advice around what happened
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _exporting() -> Iterator[None]:
    """Keep torch's notes off the screen, and let Attention share heads instead of repeating them."""
    force = "TRANSFORMERS_SDPA_FORCE_GQA"
    before, disabled = os.environ.get(force), logging.root.manager.disable
    os.environ[force] = "1"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), hushed():
            yield
    finally:
        logging.disable(disabled)
        os.environ.pop(force)
        if before is not None:
            os.environ[force] = before
