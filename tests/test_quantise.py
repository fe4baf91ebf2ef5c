"""The quantiser: grids are kept to, calibration pays, nothing is lost where nothing need be."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny import ARCHITECTURES, tiny_base
from tokenizers import AddedToken

from exporters.presets import PRESETS, RUNTIMES, bits_per_weight, recover_base, scheme_of
from exporters.quantise.calibrate import (
    Windows,
    apply_weights,
    calibration_windows,
    quantise_model,
)
from exporters.quantise.frequent import frequent_tokens
from exporters.quantise.grid import (
    ONNX_INT4,
    ONNX_INT8,
    XNNPACK_INT4,
    XNNPACK_INT8,
    Grid,
    QuantisedWeight,
    Scheme,
)
from exporters.quantise.lossless import recover
from exporters.quantise.solve import output_error, quantise
from exporters.quantise.store import read_weights, write_weights
from exporters.texts import calibration_text
from toolkit.errors import EdgePLMError, ModelError
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
GRIDS = (ONNX_INT4, ONNX_INT8, XNNPACK_INT4, XNNPACK_INT8)


def inputs_like_a_model(count: int, wide: int, seed: int = 0) -> torch.Tensor:
    """Correlated inputs of very different sizes, as a decoder's are."""
    torch.manual_seed(seed)
    common = torch.randn(count, wide // 4) @ torch.randn(wide // 4, wide)
    return (common + 0.5 * torch.randn(count, wide)) * torch.logspace(-1, 1, wide)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("wide", [96, 80])  # 80: the last block is short
def test_every_weight_lies_on_the_grid(grid: Grid, wide: int) -> None:
    weight = torch.randn(24, wide)
    inputs = inputs_like_a_model(400, wide)
    for hessian in (None, inputs.T @ inputs):
        made = quantise(weight, grid, hessian)
        blocks = 1 if grid.block is None else -(-wide // grid.block)
        assert made.codes.shape == weight.shape and made.codes.dtype == torch.uint8
        assert made.scales.shape == made.zeros.shape == (24, blocks)
        assert int(made.codes.max()) <= grid.largest
        assert torch.equal(made.scales, made.scales.to(grid.scale_dtype).float())
        if grid.symmetric:
            assert bool((made.zeros == grid.middle).all())
        off = (made.dequantise() - weight).norm() / weight.norm()
        assert off < (0.4 if grid.bits == 4 else 0.04)


@pytest.mark.parametrize("grid", [ONNX_INT4, XNNPACK_INT4])
def test_each_step_lowers_the_error_of_the_outputs_on_inputs_it_has_not_seen(grid: Grid) -> None:
    torch.manual_seed(1)
    weight = torch.randn(48, 96)
    both = inputs_like_a_model(4000, 96)
    seen, unseen = (part.T @ part for part in both.split(2000))
    rounded = output_error(weight, quantise(weight, grid), unseen)
    gptq = output_error(weight, quantise(weight, grid, seen, rounds=0), unseen)
    full = output_error(weight, quantise(weight, grid, seen), unseen)
    assert full < gptq < 0.7 * rounded


def test_weights_of_zero_and_inputs_never_seen() -> None:
    weight = torch.randn(8, 64)
    weight[3], weight[:, 32:40] = 0, 0
    hessian = torch.zeros(64, 64)
    hessian[:20, :20] = torch.eye(20)
    made = quantise(weight, ONNX_INT4, hessian).dequantise()
    assert bool(made.isfinite().all()) and bool((made[3] == 0).all()) and bool((made[:, 32:40] == 0).all())


def test_weights_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantise(torch.full((2, 32), torch.nan), ONNX_INT4)


def test_rounding_finds_the_grid_that_weights_are_on() -> None:
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (6, 64))
    codes[:, ::32], codes[:, 1::32] = 0, 15
    weight = (codes - 7) * torch.rand(6, 2).half().float().repeat_interleave(32, 1)
    assert torch.allclose(quantise(weight, ONNX_INT4).dequantise(), weight, atol=1e-6)


# A base that is quantised already


def gguf_like(rows: int, wide: int, bits: int) -> torch.Tensor:
    """Weights as llama.cpp's Q4_1 or Q8_0 leaves them."""
    weight = torch.randn(rows, wide // 32, 32)
    if bits == 8:
        scale = (weight.abs().amax(2, keepdim=True) / 127).half().float()
        return (torch.round(weight / scale) * scale).flatten(1)
    low, high = weight.amin(2, keepdim=True), weight.amax(2, keepdim=True)
    scale, low = ((high - low) / 15).half().float(), low.half().float()
    return (((weight - low) / scale + 0.5).floor().clamp(0, 15) * scale + low).flatten(1)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_recovered_bit_for_bit(bits: int) -> None:
    weight = gguf_like(40, 96, bits)
    weight[7] = 0
    made = recover(weight)
    assert made is not None and made.grid.bits == bits
    assert torch.equal(made.dequantise(), weight)


def test_float_weights_are_on_no_grid() -> None:
    weight = gguf_like(8, 64, 4)
    weight[3, 5] += 1e-3
    assert recover(weight) is None
    assert recover(torch.randn(4, 64)) is None
    assert recover(torch.randn(4, 50)) is None


def test_exact_refuses_a_float_base(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"q_proj is on neither .* export it attached"):
        recover_base(load_model(tiny_base(tmp_path)))


# Windows


def test_windows_are_half_the_persons_own() -> None:
    own = [[1] * 100 for _ in range(20)]
    made = calibration_windows([2] * 4000, own, count=8, length=100)
    assert made.ids.shape == (8, 100) and made.own == 4
    assert int((made.ids == 1).sum()) == 400


def test_what_is_missing_is_filled_up() -> None:
    few = calibration_windows([2] * 4000, [[1] * 150], count=8, length=100)
    assert len(few.ids) == 8 and few.own == 1
    alone = calibration_windows([], [[1] * 500], count=8, length=100)
    assert len(alone.ids) == 5 and alone.own == 5
    with pytest.raises(EdgePLMError, match="do not fill a window of 100 tokens"):
        calibration_windows([2] * 50, [[1] * 20], count=8, length=100)


def test_the_digest_says_which_windows_they_are() -> None:
    one, other = (Windows(torch.tensor([[1, 2, last]]), 0) for last in (3, 4))
    assert one.sha256 == Windows(torch.tensor([[1, 2, 3]]), 0).sha256 != other.sha256


# A whole model


def text_ids(count: int, length: int) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randint(3, 380, (count, length))


def kl_to_float(model: torch.nn.Module, exact: torch.Tensor, ids: torch.Tensor) -> float:
    with torch.no_grad():
        given = model(input_ids=ids).logits.log_softmax(-1)
    return float((exact.exp() * (exact - given)).sum(-1).mean())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_calibrated_model_is_nearer_to_float_than_a_rounded_one(architecture: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path, architecture)
    model = load_model(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    windows, unseen = text_ids(40, 96).split([32, 8])
    with torch.no_grad():
        exact = model(input_ids=unseen).logits.log_softmax(-1)
    found = {}
    for name, given in (("rounded", None), ("calibrated", windows)):
        weights = quantise_model(model, Scheme(ONNX_INT4, ONNX_INT8), given)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        linears = [key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        assert sorted(weights) == sorted(linears)
        changed = load_model(base)
        apply_weights(changed, weights)
        assert torch.equal(
            changed.get_input_embeddings().weight, weights["lm_head"].dequantise()
        )  # tied, and both quantised
        found[name] = kl_to_float(changed, exact, unseen)
    assert 0 < found["calibrated"] < 0.8 * found["rounded"]


def test_calibration_serves_the_text_it_was_made_on(tmp_path: Path) -> None:
    """The reason to calibrate on a person's own examples."""
    base = tiny_base(tmp_path)
    model = load_model(base)
    torch.manual_seed(0)
    mine, others = torch.randint(3, 60, (40, 96)), torch.randint(200, 380, (32, 96))
    windows, unseen = mine.split([32, 8])
    with torch.no_grad():
        exact = model(input_ids=unseen).logits.log_softmax(-1)
    found = []
    for given in (windows, others):
        changed = load_model(base)
        apply_weights(changed, quantise_model(model, Scheme(ONNX_INT4, ONNX_INT8), given))
        found.append(kl_to_float(changed, exact, unseen))
    assert found[0] < found[1]


def test_a_model_without_linear_layers_is_refused() -> None:
    import transformers

    config = transformers.GPT2Config(vocab_size=384, n_embd=32, n_layer=2, n_head=2)
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel has no list of layers .* --precision fp32"):
        quantise_model(transformers.GPT2LMHeadModel(config), Scheme(ONNX_INT4, ONNX_INT8), None)


def test_layers_that_stay_float(tmp_path: Path) -> None:
    model = load_model(tiny_base(tmp_path))
    assert quantise_model(model, Scheme(None, None), None) == {}
    assert list(quantise_model(model, Scheme(None, ONNX_INT8), None)) == ["lm_head"]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "exact"])
@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
def test_finer_presets_take_more_bits_and_lose_less(preset: str, runtime: str, tmp_path: Path) -> None:
    model = load_model(tiny_base(tmp_path))
    scheme = scheme_of(preset, None, runtime)
    weights = quantise_model(model, scheme, None)
    bits = bits_per_weight(weights)
    low, high = {"smallest": (4, 5.6), "balanced": (4, 8), "faithful": (8, 10)}[preset]
    assert low < bits < high
    assert scheme_of(preset, "fp32", runtime).linear is None


def test_the_ends_of_a_scheme_are_on_its_finer_grid(tmp_path: Path) -> None:
    scheme = Scheme(ONNX_INT4, None, ONNX_INT8, {"v_proj": (1.0, 0.0), "down_proj": (1 / 3, 1 / 10)})
    fine = [layer for layer in range(30) if scheme.grid("mlp.down_proj", layer, 30) == ONNX_INT8]
    assert fine == [*range(10), 27, 28, 29]
    assert all(scheme.grid("self_attn.v_proj", layer, 30) == ONNX_INT8 for layer in range(30))
    assert scheme.grid("self_attn.qkv_proj", 0, 30) == scheme.grid("mlp.up_proj", 0, 30) == ONNX_INT4
    assert scheme.words == (
        "int4, blocks of 32; v_proj, 43% of down_proj int8, blocks of 32; head, embedding float32"
    )
    model = load_model(tiny_base(tmp_path))
    for given in (None, text_ids(4, 32)):
        weights = quantise_model(model, scheme, given)
        finer = {name for name, weight in weights.items() if weight.grid == ONNX_INT8}
        assert finer == {
            "model.layers.0.mlp.down_proj",
            *(f"model.layers.{layer}.self_attn.v_proj" for layer in (0, 1)),
        }


def test_frequent_tokens_are_on_the_finer_grid(tmp_path: Path) -> None:
    scheme = Scheme(ONNX_INT4, ONNX_INT4, ONNX_INT8, frequent=0.5)
    assert scheme.words == (
        "int4, blocks of 32; head, embedding int4, blocks of 32; "
        "most frequent 50% of tokens int8, blocks of 32"
    )
    model = load_model(tiny_base(tmp_path))
    exact = model.get_output_embeddings().weight.data
    frequent = torch.arange(1, len(exact), 2)
    coarse, made = (quantise_model(model, scheme, None, frequent=ids) for ids in (None, frequent))
    off, whole = ((each["lm_head"].dequantise() - exact).norm(dim=1) for each in (made, coarse))
    assert bool((off[1::2] <= 0.2 * whole[1::2]).all()) and torch.equal(off[::2], whole[::2])
    assert bits_per_weight(coarse) < bits_per_weight(made) < bits_per_weight(coarse) + 4


def test_which_tokens_are_frequent() -> None:
    class Tokenizer:
        chat_template = "<user>{{ messages[0].content }}<end>"
        all_special_ids: ClassVar = [996]
        added_tokens_decoder: ClassVar = {998: AddedToken("<end>"), 999: AddedToken("<spare>")}

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            assert text == calibration_text()
            return {"input_ids": [900, 901, 902] * 9 + [700] * 2}

    found = frequent_tokens(Tokenizer(), 1000, 0.1)
    assert found.tolist() == [*range(91), 900, 901, 902, 996, 998]  # 96 of them, whole tiles
    assert scheme_of("smallest", None, "onnx").frequent > 0


def test_smallest_is_the_smallest_for_every_runtime(tmp_path: Path) -> None:
    """On ExecuTorch too, where an int4 head could not share its weights with the embedding."""
    model = load_model(tiny_base(tmp_path))
    for runtime in RUNTIMES:
        schemes = [scheme_of(preset, None, runtime) for preset in ("smallest", "balanced", "faithful")]
        bits = [bits_per_weight(quantise_model(model, scheme, None)) for scheme in schemes]
        assert bits == sorted(set(bits))
    assert scheme_of("smallest", None, "executorch").head == XNNPACK_INT8


def test_scales_stay_within_their_type() -> None:
    for size in (1e-9, 1e-5, 1.0, 1e4):
        weight = torch.randn(4, 64) * size
        made = quantise(weight, ONNX_INT4, torch.eye(64)).dequantise()
        assert bool(made.isfinite().all())
        assert (made - weight).norm() < max(0.2 * weight.norm(), 4e-6)


def test_weights_survive_the_disk(tmp_path: Path) -> None:
    made = {
        "a.b": quantise(torch.randn(4, 64), XNNPACK_INT4),
        "lm_head": quantise(torch.randn(6, 64), XNNPACK_INT8),
    }
    exact = recover(gguf_like(4, 64, 4))
    assert exact is not None
    made["c"] = exact
    others = quantise(torch.randn(3, 64), ONNX_INT4)
    made["d"] = replace(quantise(torch.randn(2, 64), ONNX_INT8), rows=torch.tensor([1, 4]), others=others)
    write_weights(tmp_path / "w.safetensors", made)
    found = read_weights(tmp_path / "w.safetensors")
    assert list(found) == list(made)
    for name, weight in made.items():
        same: QuantisedWeight = found[name]
        assert same.grid == weight.grid and torch.equal(same.dequantise(), weight.dequantise())
