"""LoRA slots in a graph: where they are, what the file says of them, and that alone they change nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attached import ATTENTION, INT8, MIXED, Built, build, ids
from tiny import ARCHITECTURES

from exporters.onnx.slots import (
    DTYPES,
    SPEC_KEY,
    Part,
    add_slots,
    add_slots_to_folder,
    plan_slots,
    read_slots,
)
from runtimes.genai import GenAIEngine
from toolkit.errors import BundleError, EdgePLMError, ModelError
from toolkit.files import sha256_of

pytestmark = pytest.mark.usefixtures("one_thread")
QKV = "model.layers.0.attn.qkv_proj"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module", params=["float", "quantised"])
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("llama"), scheme=INT8 if request.param == "quantised" else None)


def graph_of(bundle: Path) -> onnx.ModelProto:
    return onnx.load(bundle / "model.onnx", load_external_data=False)


def inputs_of(model: onnx.ModelProto) -> dict[str, tuple[int, list[Any]]]:
    """Kind and shape of every graph input; a free dimension is its name."""
    found = {}
    for entry in model.graph.input:
        tensor = entry.type.tensor_type
        shape = [size.dim_param or size.dim_value for size in tensor.shape.dim]
        found[entry.name] = (tensor.elem_type, shape)
    return found


def test_every_linear_layer_gets_a_slot(built: Built) -> None:
    plan = plan_slots(graph_of(built.bundle), ["all-linear"])
    linear = {name for name, module in built.model.named_modules() if type(module).__name__ == "Linear"}
    assert set(plan.modules) == linear - {"lm_head"}
    for name, (slot, part) in plan.modules.items():
        module = built.model.get_submodule(name)
        assert (slot.inputs, part.outputs) == (module.in_features, module.out_features)
    fused = plan.modules["model.layers.0.self_attn.k_proj"][0]
    assert (fused.name, fused.outputs) == (QKV, 128)
    assert [(part.start, part.outputs) for part in fused.parts] == [(0, 64), (64, 32), (96, 32)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_slots_are_free_in_rank_and_have_defaults(llama: Built, dtype: str) -> None:
    model = graph_of(llama.bundle)
    before = inputs_of(model)
    plan = add_slots(model, ["q_proj", "k_proj", "v_proj", "down_proj"], dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype]))
    added = {name: entry for name, entry in inputs_of(model).items() if name not in before}
    down = "model.layers.1.mlp.down_proj"
    assert added[f"{QKV}.lora_A"] == (kind, [f"{QKV}.ranks", 64])
    assert added[f"{QKV}.lora_B"] == (kind, [f"{QKV}.rank", 128])
    assert added[f"{down}.lora_A"] == (kind, [f"{down}.rank", 128])
    assert added[f"{down}.lora_B"] == (kind, [f"{down}.rank", 64])
    assert len(added) == 2 * 2 * (3 if dtype == "int8" else 2)
    defaults = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer
                if entry.name in added}  # fmt: skip
    assert set(defaults) == set(added)
    assert not any(value.any() for value in defaults.values())
    assert defaults[f"{QKV}.lora_A"].shape == (3, 64)
    assert {slot.name for slot in plan.slots} == {name.rpartition(".")[0] for name in added}


def test_what_was_asked_for_and_no_more(llama: Built) -> None:
    plan = plan_slots(graph_of(llama.bundle), ["v_proj", "q_proj"])
    assert plan.targets == ["q_proj", "v_proj"]
    assert [slot.name for slot in plan.slots] == [QKV, QKV.replace("0", "1")]
    assert plan.slots[0].parts == [Part("model.layers.0.self_attn.q_proj", 0, 64),
                                   Part("model.layers.0.self_attn.v_proj", 96, 32)]  # fmt: skip
    mask = plan.slots[0].mask
    assert mask.shape == (2, 1, 128)
    assert mask[:, 0].sum(axis=1).tolist() == [64, 32]
    assert mask[1, 0, 96:].all()


def test_a_fused_layer_on_two_grids_is_two_layers(tmp_path: Path) -> None:
    plan = plan_slots(graph_of(build(tmp_path, scheme=MIXED).bundle), ["v_proj", "k_proj"])
    assert [(slot.name, slot.outputs) for slot in plan.slots[:2]] == [
        ("model.layers.0.attn.qk_proj", 96),
        ("model.layers.0.attn.v_proj", 32),
    ]
    assert [slot.parts for slot in plan.slots[:2]] == [
        [Part("model.layers.0.self_attn.k_proj", 64, 32)],
        [Part("model.layers.0.self_attn.v_proj", 0, 32)],
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_an_adapter_the_base_answers_bit_for_bit(built: Built, tmp_path: Path, dtype: str) -> None:
    slotted = shutil.copytree(built.bundle, tmp_path / "b")
    add_slots_to_folder(slotted, ["all-linear"], dtype)
    plain, engine = GenAIEngine(built.bundle, 1), GenAIEngine(slotted, 1)
    for length in (1, 7, 90):
        assert np.array_equal(engine.prefill(ids(length)), plain.prefill(ids(length)))
        assert np.array_equal(engine.decode(5), plain.decode(5))
    engine.close()
    plain.close()


def test_quantised_layers_answer_bit_for_bit_too(llama: Built, tmp_path: Path) -> None:
    slotted = shutil.copytree(llama.bundle, tmp_path / "b")
    add_slots_to_folder(slotted, ATTENTION)
    plain, engine = GenAIEngine(llama.bundle, 1), GenAIEngine(slotted, 1)
    assert np.array_equal(engine.prefill(ids(50)), plain.prefill(ids(50)))


def test_the_file_alone_says_what_its_slots_are(llama: Built, tmp_path: Path) -> None:
    slotted = shutil.copytree(llama.bundle, tmp_path / "b")
    data = sha256_of(slotted / "model.onnx.data")
    plan = add_slots_to_folder(slotted, ["o_proj", "k_proj"], "float16")
    assert sha256_of(slotted / "model.onnx.data") == data
    (slotted / "model.onnx.data").unlink()
    assert read_slots(slotted / "model.onnx") == plan
    assert plan.dtype == "float16"


def test_loading_it_warns_of_nothing(llama: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slotted = shutil.copytree(llama.bundle, tmp_path / "b")
    add_slots_to_folder(slotted, ["all-linear"])
    GenAIEngine(slotted, 1).close()
    assert capfd.readouterr() == ("", "")


def test_a_graph_by_torch_has_slots_as_well(llama: Built) -> None:
    """Its nodes bear the modules' own names and nothing is fused."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 6), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="model.layers.3.self_attn.q_proj/MatMul")
    shapes = [helper.make_tensor_value_info(*entry) for entry in
              (("x", TensorProto.FLOAT, [1, 2, 4]), ("y", TensorProto.FLOAT, [1, 2, 6]))]  # fmt: skip
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    plan = add_slots(model, ["all-linear"], "float32")
    assert list(plan.modules) == ["model.layers.3.self_attn.q_proj"]
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}

    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    x, rng = np.ones((1, 2, 4), np.float32), np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 6)).astype(np.float32)
    slot = plan.slots[0]
    assert np.array_equal(session.run(None, {"x": x})[0], x @ np.ones((4, 6), np.float32))
    changed = session.run(None, {"x": x, slot.a: a, slot.b: b})[0]
    assert np.allclose(changed, x @ (np.ones((4, 6)) + a.T @ b), atol=1e-5)


# What cannot be done


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_proj", "lm_head"], "no linear layer of the kind lm_head to put"),
        (["c_attn", "Wqkv"], "no linear layer of the kind Wqkv, c_attn to put"),
        ([], "no linear layer of the kind none to put"),
    ],
)
def test_targets_that_the_graph_lacks(llama: Built, targets: list[str], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        plan_slots(graph_of(llama.bundle), targets)
    assert said in str(caught.value)
    assert "Kinds it has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(caught.value)


def test_slots_are_added_once_and_in_a_known_dtype(llama: Built) -> None:
    model = graph_of(llama.bundle)
    with pytest.raises(EdgePLMError, match=r"cannot hold 'int4'\. Known: float32, float16, int8"):
        add_slots(model, ["q_proj"], "int4")
    add_slots(model, ["q_proj"])
    with pytest.raises(ModelError, match="has LoRA slots already"):
        add_slots(model, ["v_proj"])


def test_a_fused_layer_of_unknown_widths(llama: Built) -> None:
    model = graph_of(llama.bundle)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            next(entry for entry in node.attribute if entry.name == "num_heads").i = 5
    with pytest.raises(ModelError, match=r"widths of q_proj, k_proj, v_proj in model\.layers\.0\.self_attn"):
        plan_slots(model, ["q_proj"])


def test_graphs_without_slots_or_with_damaged_ones(llama: Built, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no LoRA slots.*Export it with `--form attached`"):
        read_slots(llama.bundle / "model.onnx")
    with pytest.raises(BundleError, match="is no ONNX graph"):
        read_slots(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes((llama.bundle / "model.onnx").read_bytes()[:1000])
    with pytest.raises(BundleError, match="is no ONNX graph"):
        read_slots(tmp_path / "cut.onnx")
    for spec in ("no json", "[]", json.dumps({"dtype": "int4", "slots": []}), json.dumps({"dtype": "int8"})):
        model = graph_of(llama.bundle)
        onnx.helper.set_model_props(model, {SPEC_KEY: spec})
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(BundleError, match=rf"bad\.onnx, {SPEC_KEY}: .* Export the bundle again"):
            read_slots(tmp_path / "bad.onnx")
