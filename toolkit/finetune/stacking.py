"""LoRA adapters of one person or several on a frozen base: each segment of a batch passes through its own.

All adapters' matrices lie in one tensor [slots, numbers], a row a person, so that gradient clipping and the
optimiser each touch one flat tensor a person rather than hundreds of small ones. The layers' backward pass is
written out: adapters' gradients are added into a second such tensor in place, and neither the scaled output
of an adapter nor its sum with the base's output is kept. B lies transposed, and what is between A and B too:
with a rank of 8 the products are several times faster so (2.8 times for all six of a layer of SmolLM2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from toolkit.finetune.segments import Layout, current_layout


def unstackable(peft_model: Any) -> str | None:
    """Why this adapter cannot be stacked, None if it can: plain LoRA on linear layers is what can."""
    from peft.tuners.lora.layer import Linear, LoraLayer

    for name, module in peft_model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        plain = type(module) is Linear and type(module.base_layer) is torch.nn.Linear
        if not plain or module.lora_variant or any(module.lora_bias.values()):
            return f"{name} is not plain LoRA on a linear layer"
        if module.lora_A["default"].weight.dtype != module.base_layer.weight.dtype:
            return f"{name} has another precision than the layer that it is on"
    return None


@dataclass
class _Layer:
    """One LoRA layer: the frozen weight, and views of everybody's A [slots, r, in] and Bᵀ [slots, r, out]."""

    module: Any
    down: torch.Tensor
    up: torch.Tensor
    down_grad: torch.Tensor
    up_grad: torch.Tensor
    scale: float
    dropout: float

    @property
    def own(self) -> tuple[torch.Tensor, torch.Tensor]:
        """PEFT's own A and, seen transposed, B, for initial values to come from and final ones to go to."""
        return self.module.lora_A["default"].weight, self.module.lora_B["default"].weight.T


class Stack:
    """`slots` adapters like the one on `peft_model`, all of which begin as it is now.

    `values` and `grads` are [slots, numbers]; dropout draws from `generators`, one a slot, which begin in the
    state that PyTorch's own generator is in now.
    """

    def __init__(self, peft_model: Any, slots: int) -> None:
        from peft.tuners.lora.layer import LoraLayer

        modules = [module for module in peft_model.modules() if isinstance(module, LoraLayer)]
        shapes = [(m.lora_A["default"].weight.shape, m.lora_B["default"].weight.T.shape) for m in modules]
        device = modules[0].lora_A["default"].weight.device
        dtype = modules[0].lora_A["default"].weight.dtype
        total = sum(down.numel() + up.numel() for down, up in shapes)
        self.values = torch.zeros(slots, total, device=device, dtype=dtype)
        self.grads = torch.zeros_like(self.values)
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        self._layers: list[_Layer] = []
        offset = 0
        for module, (down, up) in zip(modules, shapes, strict=True):
            middle, end = offset + down.numel(), offset + down.numel() + up.numel()
            drop = module.lora_dropout["default"]
            self._layers.append(
                _Layer(
                    module,
                    self.values[:, offset:middle].view(slots, *down),
                    self.values[:, middle:end].view(slots, *up),
                    self.grads[:, offset:middle].view(slots, *down),
                    self.grads[:, middle:end].view(slots, *up),
                    module.scaling["default"],
                    float(getattr(drop, "p", 0.0)),
                )
            )
            offset = end
        with torch.no_grad():
            self._fresh = torch.cat([part.reshape(-1) for layer in self._layers for part in layer.own])
        self._random_state = _random_state(device)
        self.generators = [torch.Generator(device=device) for _ in range(slots)]

    def reset(self, slot: int) -> None:
        """A fresh adapter in `slot`."""
        self.values[slot] = self._fresh
        self.grads[slot] = 0
        self.generators[slot].set_state(self._random_state)

    @torch.no_grad()
    def show(self, values: torch.Tensor) -> None:
        """Put an adapter, [numbers], into PEFT's own weights, to be saved from there."""
        offset = 0
        for layer in self._layers:
            for own in layer.own:
                own.copy_(values[offset : offset + own.numel()].view_as(own))
                offset += own.numel()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the model's LoRA layers compute each segment with its own slot, within `people_losses`."""
        for layer in self._layers:
            layer.module.forward = partial(_StackedLinear.apply, self._anchor, layer, self.generators)
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.module.forward


class _StackedLinear(torch.autograd.Function):
    """y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ, with the A and B of each segment's slot.

    Gradients of A and B go straight into the stack; the anchor is what makes autograd come by in the first
    layer, whose input needs no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, anchor: torch.Tensor, layer: _Layer, generators: list[torch.Generator], x: torch.Tensor
    ) -> torch.Tensor:
        layout = current_layout()
        base = layer.module.base_layer
        flat = x.reshape(-1, x.shape[-1])
        out = torch.nn.functional.linear(flat, base.weight, base.bias)
        dropping = layer.dropout > 0 and layer.module.training
        noise = _noise(flat, layout, layer.dropout, generators) if dropping else None
        inside = _add_adapters(out, flat if noise is None else flat * noise, layer, layout)
        ctx.layer, ctx.layout = layer, layout
        ctx.save_for_backward(flat, noise, *inside)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        layer, layout = ctx.layer, ctx.layout
        flat, noise, *inside = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        to_input = gradient @ layer.module.base_layer.weight if ctx.needs_input_grad[3] else None
        dropped = flat if noise is None else flat * noise
        _add_gradients(to_input, gradient, dropped, inside, noise, layer, layout)
        shaped = None if to_input is None else to_input.view(*gradients[0].shape[:-1], -1)
        return None, None, None, shaped


def _noise(
    flat: torch.Tensor, layout: Layout, dropout: float, generators: list[torch.Generator]
) -> torch.Tensor:
    """Dropout's factors, 0 or 1 / (1 - p); on a CPU the same numbers as each person alone would draw."""
    noise = torch.empty_like(flat)
    for slot, start, end in layout.rows():
        noise[start:end].bernoulli_(1 - dropout, generator=generators[slot])
    return noise.div_(1 - dropout)


def _add_adapters(out: torch.Tensor, x: torch.Tensor, layer: _Layer, layout: Layout) -> list[torch.Tensor]:
    """Add s · x Aᵀ Bᵀ to `out` in place; returns A xᵀ: [r, tokens] a segment, or [segments, r, tokens]."""
    if layout.padded:
        slots, batch = list(layout.slots), len(layout.slots)
        inside = torch.bmm(layer.down[slots], x.view(batch, -1, x.shape[-1]).transpose(1, 2))
        folded = out.view(batch, -1, out.shape[-1])
        folded.baddbmm_(inside.transpose(1, 2), layer.up[slots], alpha=layer.scale)
        return [inside]
    parts = []
    for slot, start, end in layout.rows():
        part = layer.down[slot] @ x[start:end].T
        out[start:end].addmm_(part.T, layer.up[slot], alpha=layer.scale)
        parts.append(part)
    return parts


def _add_gradients(
    to_input: torch.Tensor | None,
    gradient: torch.Tensor,
    x: torch.Tensor,
    inside: list[torch.Tensor],
    noise: torch.Tensor | None,
    layer: _Layer,
    layout: Layout,
) -> None:
    """Add the adapters' share to the input's gradient, and their own gradients into the stack, in place."""
    scale = layer.scale
    if layout.padded:
        slots, batch = list(layout.slots), len(layout.slots)
        gradient, x = (part.view(batch, -1, part.shape[-1]) for part in (gradient, x))
        back = torch.bmm(layer.up[slots], gradient.transpose(1, 2))
        index = torch.tensor(slots, device=x.device)
        layer.down_grad.index_add_(0, index, torch.bmm(back, x), alpha=scale)
        layer.up_grad.index_add_(0, index, torch.bmm(inside[0], gradient), alpha=scale)
        if to_input is not None:
            folded = to_input.view(batch, -1, x.shape[-1])
            _add_product(folded, back.transpose(1, 2), layer.down[slots], noise, scale)
        return
    for (slot, start, end), part in zip(layout.rows(), inside, strict=True):
        one = slice(start, end)
        back = layer.up[slot] @ gradient[one].T
        layer.down_grad[slot].addmm_(back, x[one], alpha=scale)
        layer.up_grad[slot].addmm_(part, gradient[one], alpha=scale)
        if to_input is not None:
            factors = None if noise is None else noise[one]
            _add_product(to_input[one], back.T, layer.down[slot], factors, scale)


def _add_product(
    target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, noise: torch.Tensor | None, scale: float
) -> None:
    """target += scale · (left @ right) · noise, in place; two dimensions or a batch of them."""
    if noise is not None:
        target.addcmul_(left @ right, noise.view_as(target), value=scale)
    elif target.dim() == 3:
        target.baddbmm_(left, right, alpha=scale)
    else:
        target.addmm_(left, right, alpha=scale)


def _random_state(device: torch.device) -> torch.Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(device)
    return state
