"""Smoothing: the same function in float, its activations easier to round."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, tiny_base

from exporters.executorch.linear import quantise_tokens
from exporters.quantise.smooth import can_smooth, smoothed
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


@pytest.mark.parametrize("arch", ["Mistral", "Qwen2"])
def test_other_architectures_with_the_same_layers(arch: str) -> None:
    """Qwen 2 has biases, which are divided with the values that they are added to."""
    import transformers

    shape = {
        "vocab_size": 384, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "dtype": "float32",
    }  # fmt: skip
    config = getattr(transformers, f"{arch}Config")(**shape)
    torch.manual_seed(0)
    model = getattr(transformers, f"{arch}ForCausalLM")(config).eval()
    model.config.architectures = [f"{arch}ForCausalLM"]
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    expected = logits(model, tokens())
    before = model.model.layers[0].self_attn.v_proj.weight.clone()
    assert can_smooth(model)
    with smoothed(model, tokens()):
        assert not torch.equal(model.model.layers[0].self_attn.v_proj.weight, before)
        assert (logits(model, tokens()) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_more_of_the_spread_goes_into_the_weights_with_a_larger_alpha(tmp_path: Path, alpha: float) -> None:
    model = load_model(tiny_base(tmp_path)).eval()
    widen(model)

    def spread(weight: torch.Tensor) -> float:
        largest = weight.detach().abs().amax(0)
        return float(largest.max() / largest.min())

    down = model.model.layers[0].mlp.down_proj
    with smoothed(model, tokens(), 0.5):
        half = spread(down.weight)
    with smoothed(model, tokens(), alpha):
        assert (spread(down.weight) > half) == (alpha > 0.5)


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
