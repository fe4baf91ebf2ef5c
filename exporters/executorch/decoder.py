"""A decoder in the shape that ExecuTorch runs fastest: few large segments between the attention operators.

Between one layer's attention and the next one's lies one segment, which XNNPACK takes as a single delegate:
N layers make N + 1 delegates. All segments between two layers have the same graph and differ only in weights.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exporters.executorch.linear import (
    FloatEmbedding,
    FloatLinear,
    IntegerEmbedding,
    IntegerLinear,
    RMSNorm,
    TanhGELU,
    project,
)
from exporters.quantise.grid import QuantisedWeight

if TYPE_CHECKING:
    from exporters.executorch.slots import Slots

Weights = dict[str, QuantisedWeight]
MakeLinear = Callable[[Any, str], nn.Module]

# Names in transformers of the GELU by tanh.
_TANH_GELU = {"GELUTanh", "PytorchGELUTanh", "NewGELUActivation"}


@dataclass(frozen=True)
class Attention:
    """One layer's call of the attention operator: which rotary table and window it uses, and the scale."""

    kind: str
    window: int | None
    scale: float
    heads: int
    kv_heads: int
    head_dim: int


class BeforeAttention(nn.Module):
    """Hidden states [1, T, hidden] and rotary tables [1, T, 1, dim] to q, k and v [1, T, heads, dim]."""

    rotation: torch.Tensor

    def __init__(self, layer: Any, name: str, make: MakeLinear, gemma: bool) -> None:
        super().__init__()
        attention = layer.self_attn
        self.head_dim = attention.head_dim
        self.norm = _norm(layer.input_layernorm, gemma)
        self.q = make(attention.q_proj, f"{name}.self_attn.q_proj")
        self.k = make(attention.k_proj, f"{name}.self_attn.k_proj")
        self.v = make(attention.v_proj, f"{name}.self_attn.v_proj")
        q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.q_norm = nn.Identity() if q_norm is None else _norm(q_norm, gemma)
        self.k_norm = nn.Identity() if k_norm is None else _norm(k_norm, gemma)
        # XNNPACK slices no tensor with a dynamic size, but rotating the halves is a product as well.
        half, eye = self.head_dim // 2, torch.eye(self.head_dim)
        self.register_buffer("rotation", torch.cat((-eye[half:], eye[:half])))

    def forward(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = (
            each.view(1, -1, each.shape[2] // self.head_dim, self.head_dim)
            for each in project(self.norm(hidden), self.q, self.k, self.v)
        )
        return self._rotate(self.q_norm(q), cos, sin), self._rotate(self.k_norm(k), cos, sin), v

    def _rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return x * cos + nn.functional.linear(x, self.rotation) * sin


class AfterAttention(nn.Module):
    """Hidden states [1, T, hidden] and the attention's output [1, T, heads, dim] to hidden states."""

    def __init__(self, layer: Any, name: str, make: MakeLinear, gemma: bool) -> None:
        super().__init__()
        mlp = layer.mlp
        self.o = make(layer.self_attn.o_proj, f"{name}.self_attn.o_proj")
        self.gate = make(mlp.gate_proj, f"{name}.mlp.gate_proj")
        self.up = make(mlp.up_proj, f"{name}.mlp.up_proj")
        self.down = make(mlp.down_proj, f"{name}.mlp.down_proj")
        self.act = TanhGELU() if type(mlp.act_fn).__name__ in _TANH_GELU else mlp.act_fn
        if gemma:
            self.attention_norm: nn.Module = _norm(layer.post_attention_layernorm, gemma)
            self.mlp_norm = _norm(layer.pre_feedforward_layernorm, gemma)
            self.out_norm: nn.Module = _norm(layer.post_feedforward_layernorm, gemma)
        else:
            self.attention_norm = nn.Identity()
            self.mlp_norm = _norm(layer.post_attention_layernorm, gemma)
            self.out_norm = nn.Identity()

    def forward(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        flat = attended.view(1, -1, attended.shape[2] * attended.shape[3])
        hidden = hidden + self.attention_norm(project(flat, self.o)[0])
        gate, up = project(self.mlp_norm(hidden), self.gate, self.up)
        return hidden + self.out_norm(project(self.act(gate) * up, self.down)[0])


class Between(nn.Module):
    """One layer after its attention and the next before its own."""

    def __init__(self, after: AfterAttention, before: BeforeAttention) -> None:
        super().__init__()
        self.after, self.before = after, before

    def forward(
        self, hidden: torch.Tensor, attended: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = self.after(hidden, attended)
        return (hidden, *self.before(hidden, cos, sin))


class Last(nn.Module):
    """The last layer after its attention, the final norm and the head: logits [1, T, vocab]."""

    def __init__(self, after: AfterAttention, norm: RMSNorm, head: nn.Module) -> None:
        super().__init__()
        self.after, self.norm, self.head = after, norm, head

    def forward(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        return project(self.norm(self.after(hidden, attended)), self.head)[0]


class Decoder(nn.Module):
    """(tokens int64 [1, T], input_pos int64 [1]) to the last position's logits [1, vocab].

    The signature of ExecuTorch's LLM runners. Position `input_pos` is the first token's; keys and values of
    earlier positions are kept inside, float32 [1, context, heads, dim].
    """

    positions: torch.Tensor

    def __init__(
        self, model: Any, weights: Weights, context_length: int, gemma: bool, slots: "Slots | None" = None
    ) -> None:
        super().__init__()
        make = partial(_linear, weights=weights, slots=slots)
        layers = [(layer, f"model.layers.{i}") for i, layer in enumerate(model.model.layers)]
        before = [BeforeAttention(layer, name, make, gemma) for layer, name in layers]
        after = [AfterAttention(layer, name, make, gemma) for layer, name in layers]
        self.context_length = context_length
        self.hidden_size = model.config.get_text_config().hidden_size
        kinds = _rotary_kinds(model)
        self.attention = [
            _attention(layer.self_attn, kind, context_length)
            for (layer, _), kind in zip(layers, kinds, strict=True)
        ]
        self.embedding = _embedding(model, weights)
        head = make(model.lm_head, "lm_head")
        self.segments = nn.ModuleList(
            [
                before[0],
                *(Between(*pair) for pair in zip(after, before[1:], strict=False)),
                Last(after[-1], _norm(model.model.norm, gemma), head),
            ]
        )
        for kind in {each.kind for each in self.attention}:
            cos, sin = _rotary_table(model, kind, context_length)
            self.register_buffer(f"cos_{kind}", cos)
            self.register_buffer(f"sin_{kind}", sin)
        for i, each in enumerate(self.attention):
            shape = (1, context_length, each.kv_heads, each.head_dim)
            self.register_buffer(f"keys_{i}", torch.zeros(shape))
            self.register_buffer(f"values_{i}", torch.zeros(shape))
        self.register_buffer("positions", torch.arange(context_length, dtype=torch.float32))

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        """Needs ExecuTorch's custom operators `llama::update_cache` and `llama::custom_sdpa`."""
        start: Any = input_pos[0].item()
        length = tokens.shape[1]
        torch._check(start >= 0)
        torch._check(start + length <= self.context_length)
        tables = {kind: self._tables(kind, start, length) for kind in {each.kind for each in self.attention}}
        masks = {w: self._mask(w, start, length) for w in {each.window for each in self.attention} if w}
        hidden = self.embedding(tokens)
        q, k, v = self.segments[0](hidden, *tables[self.attention[0].kind])
        for i, each in enumerate(self.attention):
            keys, values = getattr(self, f"keys_{i}"), getattr(self, f"values_{i}")
            torch.ops.llama.update_cache(k, keys, start)
            torch.ops.llama.update_cache(v, values, start)
            mask = masks[each.window] if each.window else None
            attended = torch.ops.llama.custom_sdpa(
                q, keys, values, start, mask, 0.0, mask is None, each.scale
            )
            if i + 1 < len(self.attention):
                tables_i = tables[self.attention[i + 1].kind]
                hidden, q, k, v = self.segments[i + 1](hidden, attended, *tables_i)
        logits = self.segments[-1](hidden[:, -1:], attended[:, -1:])
        return logits.view(1, -1)

    def with_segments(self, segments: nn.ModuleList) -> "Decoder":
        """The same decoder over other segments; everything else is shared."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.segments = segments
        return other

    def segment_inputs(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """For each segment, inputs to trace it with: three tokens, and one for the last."""
        first = self.attention[0]
        hidden = torch.zeros(1, 3, self.hidden_size)
        cos, sin = torch.zeros(1, 3, 1, first.head_dim), torch.ones(1, 3, 1, first.head_dim)
        yield hidden, cos, sin
        for each in self.attention:
            attended = torch.zeros(1, 3, each.heads, each.head_dim)
            last = each is self.attention[-1]
            yield (hidden[:, :1], attended[:, :1]) if last else (hidden, attended, cos, sin)

    def _tables(self, kind: str, start: Any, length: Any) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = getattr(self, f"cos_{kind}"), getattr(self, f"sin_{kind}")
        return cos.narrow(1, start, length), sin.narrow(1, start, length)

    def _mask(self, window: int, start: Any, length: Any) -> torch.Tensor:
        """Additive mask [T, context]: a token sees itself and the `window` - 1 before it."""
        queries = self.positions.narrow(0, start, length).unsqueeze(1)
        behind = queries - self.positions.unsqueeze(0)
        seen = torch.logical_and(behind >= 0, behind < window)
        return torch.where(seen, 0.0, float("-inf"))


def _attention(module: Any, kind: str, context_length: int) -> Attention:
    window = getattr(module, "sliding_window", None)
    return Attention(
        kind=kind,
        window=window if window is not None and window < context_length else None,
        scale=float(module.scaling),
        heads=module.q_proj.out_features // module.head_dim,
        kv_heads=module.k_proj.out_features // module.head_dim,
        head_dim=module.head_dim,
    )


def _linear(linear: Any, name: str, weights: Weights, slots: "Slots | None") -> nn.Module:
    if name not in weights:
        return FloatLinear(linear)
    plain = IntegerLinear(weights[name], linear.bias)
    return plain if slots is None or not slots.takes(name) else slots.adapted(plain, name)


def _norm(norm: Any, gemma: bool) -> RMSNorm:
    epsilon = norm.eps if gemma else norm.variance_epsilon
    return RMSNorm(norm.weight.detach() + 1.0 if gemma else norm.weight, epsilon)


def _embedding(model: Any, weights: Weights) -> nn.Module:
    module = model.get_input_embeddings()
    scale = float(getattr(module, "scalar_embed_scale", 1.0))
    tied = model.config.get_text_config().tie_word_embeddings
    weight = weights.get("model.embed_tokens", weights.get("lm_head") if tied else None)
    return FloatEmbedding(module.weight, scale) if weight is None else IntegerEmbedding(weight, scale)


def _rotary_kinds(model: Any) -> list[str]:
    """Each layer's rotary table by name: its kind of attention where every kind has its own, else "all"."""
    config = model.config.get_text_config()
    if "full_attention" in (config.rope_parameters or {}):
        return list(config.layer_types)
    return ["all"] * config.num_hidden_layers


def _rotary_table(model: Any, kind: str, context_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [1, context, 1, dim] of every position."""
    positions = torch.arange(context_length).unsqueeze(0)
    more = () if kind == "all" else (kind,)
    cos, sin = model.model.rotary_emb(torch.zeros(1), positions, *more)
    return cos.unsqueeze(2).contiguous(), sin.unsqueeze(2).contiguous()
