"""Activations that round better: part of their spread moved into the weights, the function left as it is.

Runtimes round a layer's input to int8, XNNPACK with one scale a token, ONNX Runtime with one for every 32 or
64 channels, so that a few channels with large values cost the others their precision. Dividing channel j by
s_j where it is made, and multiplying column j of the weights that read it by s_j, changes nothing in float.
With s_j = max|x_j|^a / max|w_j|^(1 - a) both round well (SmoothQuant, Xiao et al., arXiv 2211.10438, section
4). The larger a, the more of the spread goes into the weights: 0.5 there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from exporters.quantise.temporary import hooked, restored
from toolkit.progress import SILENT, Progress

# Architectures whose layers `_channels` knows; in others a norm of the same name may stand elsewhere.
_ARCHITECTURES = {
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
}
_WINDOWS = 8  # for the largest values these serve as well as 64
_SMALLEST = 1e-5


@dataclass(frozen=True)
class _Channels:
    """Where a layer's channels are made and read.

    `made` is a norm (`plus_one`: one that multiplies by 1 + weight) or a linear layer. Each of its channels
    is read by `repeats` columns: the values of one key-value head, by every query head that shares it.
    """

    made: Any
    read: Sequence[torch.nn.Linear]
    plus_one: bool = False
    head_dim: int = 1
    repeats: int = 1

    def columns(self, factors: torch.Tensor) -> torch.Tensor:
        """The factor of each column that reads, from one for each channel that is made."""
        heads = factors.reshape(-1, self.head_dim)
        return heads.repeat_interleave(self.repeats, 0).flatten()

    def largest(self, columns: torch.Tensor) -> torch.Tensor:
        """For each channel that is made, the largest of the columns that read it."""
        return columns.reshape(-1, self.repeats, self.head_dim).amax(1).flatten()


def can_smooth(model: Any) -> bool:
    """Whether `smoothed` knows the architecture of `model`."""
    return (model.config.architectures or [""])[0] in _ARCHITECTURES


@contextmanager
def smoothed(
    model: Any, windows: torch.Tensor, alpha: float = 0.5, progress: Progress = SILENT
) -> Iterator[None]:
    """Inside, `model` computes the same function by weights and norms whose activations round better.

    `windows` [count, length] are token ids to read the activations' sizes on, a few of them evenly over all;
    `alpha` is a above, from 0 to 1. The head's input stays as it is, since a tied embedding has the head's
    weights. Afterwards every parameter is as it was.
    """
    channels = [each for layer in model.model.layers for each in _channels(layer)]
    with restored(model):
        with torch.no_grad():
            few = windows[:: max(1, len(windows) // _WINDOWS)]
            for each, seen in zip(channels, _sizes(model, channels, few, progress), strict=True):
                _rescale(each, seen, alpha)
        yield


def _channels(layer: Any) -> list[_Channels]:
    attention, mlp = layer.self_attn, layer.mlp
    gemma = hasattr(layer, "pre_feedforward_layernorm")
    mlp_norm = layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm
    shared = attention.q_proj.out_features // attention.k_proj.out_features
    return [
        _Channels(layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj], gemma),
        _Channels(attention.v_proj, [attention.o_proj], head_dim=attention.head_dim, repeats=shared),
        _Channels(mlp_norm, [mlp.gate_proj, mlp.up_proj], gemma),
        _Channels(mlp.up_proj, [mlp.down_proj]),
    ]


def _sizes(
    model: Any, channels: Sequence[_Channels], windows: torch.Tensor, progress: Progress
) -> list[torch.Tensor]:
    """The largest absolute value of each column's input, for each of `channels`."""
    found: list[torch.Tensor | None] = [None] * len(channels)

    def note(index: int, linear: torch.nn.Linear) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            here = inputs[0].flatten(0, -2).abs().amax(0)
            before = found[index]
            found[index] = here if before is None else torch.maximum(before, here)

        return linear.register_forward_pre_hook(hook)

    with (
        hooked(note(index, each.read[0]) for index, each in enumerate(channels)),
        progress.step("Reading sizes of activations", total=len(windows), unit="windows") as advance,
    ):
        for window in windows.split(1):
            model.model(input_ids=window, use_cache=False)
            advance(1)
    return [each for each in found if each is not None]


def _rescale(channels: _Channels, seen: torch.Tensor, alpha: float) -> None:
    weights = torch.stack([linear.weight.data.abs().amax(0) for linear in channels.read]).amax(0)
    inputs = channels.largest(seen).clamp(min=_SMALLEST)
    factors = inputs**alpha / channels.largest(weights).clamp(min=_SMALLEST) ** (1 - alpha)
    made = channels.made
    if isinstance(made, torch.nn.Linear):
        made.weight.data = made.weight.data / factors[:, None]
        if made.bias is not None:
            made.bias.data = made.bias.data / factors
    else:
        shift = 1.0 if channels.plus_one else 0.0
        made.weight.data = (made.weight.data + shift) / factors - shift
    for linear in channels.read:
        linear.weight.data = linear.weight.data * channels.columns(factors)
