"""`.onnx_adapter` files: what PEFT computes is in them, they are small, and what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from attached import ATTENTION, edit_config, lora
from safetensors.numpy import load_file, save_file
from tiny import tiny_base

from exporters.onnx.adapter_file import adapter_bytes, read_low_rank, write_adapter
from exporters.onnx.slots import Part, Slot, Slots
from toolkit.errors import AdapterError

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model.model.layers"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def plain(base: Any, tmp_path: Path) -> Path:
    return lora(base, tmp_path / "plain")


def slots(dtype: str = "float32", *, layers: int = 2, sizes: tuple[int, int, int] = (64, 64, 32)) -> Slots:
    """Slots at attention's four linear layers: [hidden, query, key or value] wide."""
    hidden, query, key = sizes
    made = []
    for layer in range(layers):
        module = f"model.layers.{layer}.self_attn"
        parts = [
            Part(f"{module}.q_proj", 0, query),
            Part(f"{module}.k_proj", query, key),
            Part(f"{module}.v_proj", query + key, key),
        ]
        made.append(Slot(f"model.layers.{layer}.attn.qkv_proj", hidden, query + 2 * key, parts))
        made.append(
            Slot(f"model.layers.{layer}.attn.o_proj", query, hidden, [Part(f"{module}.o_proj", 0, hidden)])
        )
    return Slots(dtype, made)


def tensors_of(path: Path) -> dict[str, Any]:
    adapter = ort.AdapterFormat.read_adapter(str(path))  # it owns the memory
    return {name: value.numpy().copy() for name, value in adapter.get_parameters().items()}


def change_of(tensors: dict[str, Any], slot: Slot, part: Part) -> Any:
    """What the slot adds to the module's weight, [out, in], as the graph computes it."""
    a, b = tensors[slot.a].astype(np.float64), tensors[slot.b].astype(np.float64)
    if slot.scale in tensors:
        a *= tensors[slot.scale][:, None]
    rank, index = len(b), slot.parts.index(part)
    columns = b[:, part.start : part.start + part.outputs]
    return columns.T @ a[index * rank : (index + 1) * rank]


def peft_change(base: Any, adapter: Path, module: str) -> Any:
    from peft import PeftModel

    from toolkit.models import load_model

    model = PeftModel.from_pretrained(load_model(base), str(adapter))
    return model.base_model.model.get_submodule(module).get_delta_weight("default").detach().numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"rank_pattern": {"v_proj": 7, "layers.1.self_attn.q_proj": 2}},
        {"alpha_pattern": {r"model.layers.0.self_attn.(k|q)_proj": 32}, "rank_pattern": {"k_proj": 1}},
        {"layers_to_transform": [1], "target_modules": ["q_proj", "o_proj"]},
    ],
    ids=["plain", "rslora", "ranks", "alphas", "one layer"],
)
@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 0.02)])
def test_the_file_holds_what_peft_computes(
    base: Any, tmp_path: Path, options: dict[str, Any], dtype: str, off: float
) -> None:
    adapter = lora(base, tmp_path / "a", **{"target_modules": list(ATTENTION), **options})
    places = slots(dtype)
    write_adapter(adapter, places, tmp_path / "a.onnx_adapter")
    tensors, changed = tensors_of(tmp_path / "a.onnx_adapter"), read_low_rank(adapter)
    assert len(changed) == (2 if "layers_to_transform" in options else 8)
    for module, (slot, part) in places.modules.items():
        if module not in changed:
            assert slot.a not in tensors or not change_of(tensors, slot, part).any()
            continue
        wanted = peft_change(base, adapter, module)
        found = change_of(tensors, slot, part)
        assert np.linalg.norm(found - wanted) < off * np.linalg.norm(wanted)


def test_bfloat16_and_float16_adapters_are_read(base: Any, plain: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    whole = {name: torch.from_numpy(value) for name, value in load_file(plain / WEIGHTS).items()}
    wanted = read_low_rank(plain)["model.layers.0.mlp.up_proj"]
    for dtype in (torch.bfloat16, torch.float16):
        save_torch({name: value.to(dtype) for name, value in whole.items()}, plain / WEIGHTS)
        found = read_low_rank(plain)["model.layers.0.mlp.up_proj"]
        assert found.a.dtype == found.b.dtype == np.float32
        assert np.allclose(found.b, wanted.b, rtol=0.01, atol=1e-3)


def test_the_same_adapter_gives_the_same_file(plain: Path, base: Any, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "a", target_modules=list(ATTENTION))
    for name in ("one", "two"):
        write_adapter(adapter, slots("int8"), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# SmolLM2-135M: 30 layers, 576 wide, 9 heads and 3 key-value heads of 64
@pytest.mark.parametrize(("dtype", "megabytes"), [("float32", 3.7), ("float16", 1.86), ("int8", 0.95)])
def test_size_at_rank_8_on_the_attention_of_smollm2(tmp_path: Path, dtype: str, megabytes: float) -> None:
    places, chance, tensors = slots(dtype, layers=30, sizes=(576, 576, 192)), np.random.default_rng(0), {}
    for module, (slot, part) in places.modules.items():
        for which, shape in (("A", (8, slot.inputs)), ("B", (part.outputs, 8))):
            tensors[f"base_model.model.{module}.lora_{which}.weight"] = (
                chance.normal(size=shape).astype(np.float32) / 30
            )
    save_file(tensors, tmp_path / WEIGHTS)
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": list(ATTENTION)}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    write_adapter(tmp_path, places, tmp_path / "a.onnx_adapter")
    size = (tmp_path / "a.onnx_adapter").stat().st_size
    assert size <= megabytes * 1e6
    assert adapter_bytes(places, 8) == pytest.approx(size, rel=0.01)
    assert adapter_bytes(places, 16) > 1.9 * adapter_bytes(places, 8)


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_dora": True}, "has use_dora = True"),
        ({"bias": "lora_only"}, "has bias = 'lora_only'"),
        ({"lora_bias": True}, "has lora_bias = True"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save = ['lm_head']"),
        ({"trainable_token_indices": [3, 4]}, "has trainable_token_indices = [3, 4]"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "holds base_model.model.model.embed_tokens"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_more_than_plain_lora(base: Any, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    adapter = lora(base, tmp_path / "a", **options)
    with pytest.raises(AdapterError) as caught:
        write_adapter(adapter, slots(), tmp_path / "a.onnx_adapter")
    assert said in str(caught.value)
    assert "Export it merged" in str(caught.value)
    assert not (tmp_path / "a.onnx_adapter").exists()


def test_layers_without_a_slot_are_named(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError) as caught:
        write_adapter(plain, slots(), tmp_path / "out")
    assert "changes down_proj, gate_proj, up_proj, for which the base has no slot (6 layers" in str(
        caught.value
    )
    assert "Its slots: k_proj, o_proj, q_proj, v_proj" in str(caught.value)


def test_a_head_has_no_slot(base: Any, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "a", target_modules=["q_proj", "lm_head"])
    with pytest.raises(AdapterError, match=r"changes lm_head, for which .* \(1 layers, the first lm_head\)"):
        write_adapter(adapter, slots(), tmp_path / "out")


def test_another_bases_shapes(base: Any, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "a", target_modules=list(ATTENTION))
    with pytest.raises(AdapterError) as caught:
        write_adapter(adapter, slots(sizes=(96, 64, 32)), tmp_path / "out")
    assert "changes model.layers.0.self_attn.k_proj from 64 to 32 values, the base has 96 to 32" in str(
        caught.value
    )


def spoil(adapter: Path, edit: Any) -> None:
    weights = load_file(adapter / WEIGHTS)
    edit(weights)
    save_file(weights, adapter / WEIGHTS)


def zero_b(weights: dict[str, Any]) -> None:
    for name, value in weights.items():
        if "lora_B" in name:
            value[:] = 0


def one_nan(weights: dict[str, Any]) -> None:
    weights[f"{PREFIX}.1.self_attn.q_proj.lora_A.weight"][2, 3] = np.nan


def lose_one(weights: dict[str, Any]) -> None:
    del weights[f"{PREFIX}.0.self_attn.v_proj.lora_B.weight"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (zero_b, "changes nothing: its B matrices are all zero"),
        (one_nan, "holds values that are not numbers"),
        (lose_one, "has no pair of A [rank, in] and B [out, rank] for model.layers.0.self_attn.v_proj"),
    ],
)
def test_spoilt_weights(plain: Path, edit: Any, said: str) -> None:
    spoil(plain, edit)
    with pytest.raises(AdapterError) as caught:
        read_low_rank(plain)
    assert said in str(caught.value)


def test_a_damaged_file_and_a_wrong_rank(plain: Path) -> None:
    edit_config(plain, r=8)
    with pytest.raises(AdapterError, match=r"says rank 8 for model\.layers\.0\.mlp\.down_proj, its A has 4"):
        read_low_rank(plain)
    weights = plain / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AdapterError, match="is cut short or damaged"):
        read_low_rank(plain)


def test_values_beyond_float16(base: Any, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "a", target_modules=list(ATTENTION))
    spoil(adapter, lambda weights: weights[f"{PREFIX}.1.self_attn.o_proj.lora_B.weight"].fill(1e6))
    with pytest.raises(
        AdapterError, match=r"too large for float16 \(model\.layers\.1\.attn\.o_proj\.lora_B\)"
    ):
        write_adapter(adapter, slots("float16"), tmp_path / "out")
    write_adapter(adapter, slots("int8"), tmp_path / "out")
