"""Quantised weights in the graph: it computes with exactly them, in the layout of the runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, Personal, tiny_personal

import exporters.onnx.weights
from exporters.export import ExportJob, export_bundle
from exporters.onnx.weights import pack_codes, pack_zeros, place_weights
from exporters.presets import bits_per_weight, scheme_of
from exporters.quantise.calibrate import apply_weights, quantise_model
from exporters.quantise.grid import ONNX_INT4, ONNX_INT8, ONNX_INT8_WIDE, Grid, QuantisedWeight, Scheme
from exporters.quantise.lossless import Q4_1, Q8_0
from exporters.quantise.solve import quantise
from runtimes import open_engine
from runtimes.torch_engine import TorchEngine
from toolkit.errors import ModelError
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = [5, 7, 9, 11, 200, 44, 3, 250, 17]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def personal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Personal:
    return tiny_personal(tmp_path_factory.mktemp(request.param), request.param)


def plain_job(personal: Personal, **changes: Any) -> ExportJob:
    return personal.job(adapter=None, precision=None, **changes)


def exported(personal: Personal, weights: dict[str, QuantisedWeight], out: Path, **changes: Any) -> Any:
    model = load_model(personal.base)
    export_bundle(
        model, personal.chat, plain_job(personal, **changes), out, lambda folder: open_engine(folder, 1),
        make_weights=lambda: weights,
    )  # fmt: skip
    return open_engine(out, 1)


def reference(personal: Personal, weights: dict[str, QuantisedWeight]) -> TorchEngine:
    model = load_model(personal.base)
    apply_weights(model, weights)
    return TorchEngine(model)


FINE = {"v_proj": (1.0, 0.0), "down_proj": (0.5, 0.0)}


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(ONNX_INT4, ONNX_INT8),
        Scheme(ONNX_INT4, ONNX_INT4),
        Scheme(ONNX_INT8, ONNX_INT8),
        Scheme(ONNX_INT4, ONNX_INT8, ONNX_INT8_WIDE, FINE),
        Scheme(ONNX_INT4, ONNX_INT8, Grid(8, 32, symmetric=False), FINE),
    ],
    ids=["balanced", "int4", "faithful", "finer", "float32-scales"],
)
def test_the_graph_computes_with_the_quantised_weights(
    personal: Personal, scheme: Scheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With float activations, so that nothing but the weights is rounded."""
    monkeypatch.setattr(exporters.onnx.weights, "_INT8_ACTIVATIONS", 1)
    weights = quantise_model(load_model(personal.base), scheme, None)
    engine = exported(personal, weights, tmp_path / "b")
    wanted = reference(personal, weights).score(IDS)
    assert np.abs(engine.score(IDS) - wanted).max() < 1e-3
    assert np.abs(TorchEngine(load_model(personal.base)).score(IDS) - wanted).max() > 1e-2


def test_frequent_tokens_on_a_grid_of_their_own(
    personal: Personal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters.onnx.weights, "_INT8_ACTIVATIONS", 1)
    scheme = Scheme(ONNX_INT4, ONNX_INT4, ONNX_INT8_WIDE, frequent=0.3)
    model = load_model(personal.base)
    size = len(model.get_output_embeddings().weight)
    frequent = torch.tensor([1, 2, 7, 40, 41, size - 1])
    weights = quantise_model(model, scheme, None, frequent=frequent)
    assert [part.grid for part in weights["lm_head"].parts] == [ONNX_INT8_WIDE, ONNX_INT4]
    tokens = [0, 1, 40, 39, size - 1, size - 2, 42, 7]
    engine = exported(personal, weights, tmp_path / "b")
    wanted = reference(personal, weights).score(tokens)
    assert wanted.shape == (len(tokens), size)
    assert np.abs(engine.score(tokens) - wanted).max() < 1e-3
    coarse = quantise_model(model, scheme, None)
    assert np.abs(reference(personal, coarse).score(tokens) - wanted).max() > 1e-2


def test_an_embedding_of_its_own_on_two_grids(
    personal: Personal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters.onnx.weights, "_INT8_ACTIVATIONS", 1)
    model = load_model(personal.base)
    model.config.tie_word_embeddings = False
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.data.flip(0).clone())
    scheme = Scheme(None, ONNX_INT4, ONNX_INT8_WIDE, frequent=0.3)
    weights = quantise_model(model, scheme, None, frequent=torch.tensor([1, 2, 7, 40]))
    assert len(weights) == 2 and all(weight.others for weight in weights.values())
    export_bundle(
        model, personal.chat, plain_job(personal), tmp_path / "b", lambda folder: open_engine(folder, 1),
        make_weights=lambda: weights,
    )  # fmt: skip
    apply_weights(model, weights)
    tokens = [0, 1, 40, 39, 42, 7]
    found = open_engine(tmp_path / "b", 1).score(tokens)
    assert np.abs(found - TorchEngine(model).score(tokens)).max() < 1e-3


def test_a_base_on_its_own_grid_is_exported_without_loss(
    personal: Personal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters.onnx.weights, "_INT8_ACTIVATIONS", 1)
    model = load_model(personal.base)
    weights = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            made = quantise(module.weight.data, Q8_0 if name == "lm_head" else Q4_1)
            if name != "lm_head":
                lowest = (-8 * made.scales + torch.randn(made.scales.shape) * 0.05).half().float()
                made = replace(made, zeros=torch.zeros_like(made.zeros), offsets=lowest)
            weights[name] = made
    engine = exported(personal, weights, tmp_path / "b")
    assert np.abs(engine.score(IDS) - reference(personal, weights).score(IDS)).max() < 1e-3


def test_presets_shrink_the_file_in_order(personal: Personal, tmp_path: Path) -> None:
    sizes, packed = [], 0.0
    for preset in ("smallest", "balanced", "faithful"):
        scheme = scheme_of(preset, None, "onnx")
        weights = quantise_model(load_model(personal.base), scheme, None)
        exported(personal, weights, tmp_path / preset, preset=preset).close()
        sizes.append((tmp_path / preset / "model.onnx.data").stat().st_size)
        parts = [part for weight in weights.values() for part in weight.parts]
        packed = bits_per_weight(weights) * sum(part.codes.numel() for part in parts) / 8
    # Of what faithful's weights take; the file has norms and rotary tables besides, which no preset changes.
    assert sizes == sorted(sizes) and sizes[2] - sizes[0] > 0.4 * packed


def test_no_float_weight_is_left_behind(personal: Personal, tmp_path: Path) -> None:
    import onnx

    weights = quantise_model(load_model(personal.base), Scheme(ONNX_INT4, ONNX_INT8), None)
    exported(personal, weights, tmp_path / "b").close()
    graph = onnx.load(tmp_path / "b/model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert "MatMul" not in kinds and kinds.count("MatMulNBits") == 11 and "GatherBlockQuantized" in kinds
    names = {node.name for node in graph.node}
    assert "/model/layers.0/attn/qkv_proj/MatMul_Q4" in names and "/lm_head/MatMul_Q8" in names
    floats = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]
    assert not [t.name for t in floats if "weight" in t.name and "scale" not in t.name]
    assert sorted(path.name for path in (tmp_path / "b").iterdir() if path.name.startswith(".")) == []


def test_a_weight_that_is_not_in_the_graph_is_an_error(personal: Personal, tmp_path: Path) -> None:
    weights = quantise_model(load_model(personal.base), Scheme(None, None), None)
    exported(personal, weights, tmp_path / "b").close()
    stray = torch.randn(64, 64)
    with pytest.raises(
        ModelError, match=r"1 quantised layers have no place in the graph \(the first: other\)"
    ):
        place_weights(tmp_path / "b", {"other": stray}, {"other": quantise(stray, ONNX_INT4)})


def test_codes_are_packed_as_the_runtime_reads_them() -> None:
    codes = torch.arange(1, 41, dtype=torch.uint8).remainder(16).reshape(1, 40)
    weight = QuantisedWeight(ONNX_INT4, codes, torch.ones(1, 2), torch.tensor([[7, 9]], dtype=torch.uint8))
    packed = pack_codes(weight)
    assert packed.shape == (1, 2, 16)
    assert packed[0, 0, 0] == 0x21  # the first code is the low nibble
    assert (packed[0, 1, 4:] == 0x99).all()  # padding counts as zero
    assert pack_zeros(weight).tolist() == [[0x97]]
    three = QuantisedWeight(ONNX_INT4, codes, torch.ones(1, 3), torch.tensor([[7, 9, 2]], dtype=torch.uint8))
    assert pack_zeros(three).tolist() == [[0x97, 0x02]]
