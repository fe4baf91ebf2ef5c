"""Smoothing: the same function in float, its activations easier to round."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, tiny_base

from exporters.executorch.linear import quantise_tokens
from exporters.quantise.smooth import smoothed
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")


def tokens(count: int = 4, length: int = 32) -> torch.Tensor:
    return torch.randint(3, 384, (count, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


def widen(model: Any) -> None:
    """A few channels far larger than the others, and no more important, as trained models have them."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[::16] *= 50
            layer.mlp.down_proj.weight[:, ::16] /= 50
            layer.self_attn.v_proj.weight[::8] *= 50
            layer.self_attn.o_proj.weight[:, ::8] /= 50


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_float_answers_stay_and_weights_come_back(tmp_path: Path, arch: str) -> None:
    model = load_model(tiny_base(tmp_path, arch)).eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    expected = logits(model, tokens())
    with smoothed(model, tokens()):
        changed = {n for n, each in model.state_dict().items() if not torch.equal(each, before[n])}
        assert (logits(model, tokens()) - expected).abs().max() < 1e-4
    layer = "model.layers.0"
    assert {f"{layer}.input_layernorm.weight", f"{layer}.self_attn.v_proj.weight"} <= changed
    assert {f"{layer}.self_attn.o_proj.weight", f"{layer}.mlp.down_proj.weight"} <= changed
    assert not {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} & changed
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rounded_activations_lose_less(tmp_path: Path, arch: str) -> None:
    model = load_model(tiny_base(tmp_path, arch)).eval()
    widen(model)
    expected = logits(model, tokens())
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: (quantise_tokens(inputs[0]),))
        for module in model.model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    plain = (logits(model, tokens()) - expected).square().mean()
    for hook in hooks:
        hook.remove()
    with smoothed(model, tokens()):
        for module in model.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda module, inputs: (quantise_tokens(inputs[0]),))
        smooth = (logits(model, tokens()) - expected).square().mean()
    assert smooth < 0.5 * plain


def test_weights_come_back_after_an_error(tmp_path: Path) -> None:
    model = load_model(tiny_base(tmp_path)).eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stopped"), smoothed(model, tokens()):
        raise RuntimeError("stopped")
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
