"""int8 bundles: weights rounded, activations smoothed where the architecture and the form allow it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tiny import Personal, tiny_adapter, tiny_personal

import exporters.export
from exporters.bundle import open_bundle
from exporters.quantise.smooth import smoothed
from toolkit import bundling
from toolkit.models import load_model, resolve_model
from toolkit.recipe import ExportRecipe, VerifyRecipe

pytestmark = pytest.mark.usefixtures("one_thread")
LOOSE = VerifyRecipe(prompts=2, continuation=4, min_correlation=-1, min_size=0, max_size=9, max_kl=99)


@pytest.fixture(scope="module")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Personal:
    """A person whose model has a few channels far larger than the others, as trained models have."""
    folder = tmp_path_factory.mktemp("wide")
    plain = tiny_personal(folder)
    model = load_model(plain.base)
    for layer in model.model.layers:
        layer.mlp.up_proj.weight.data[::16] *= 50
        layer.mlp.down_proj.weight.data[:, ::16] /= 50
        layer.input_layernorm.weight.data[::16] *= 50
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            linear.weight.data[:, ::16] /= 50
    model.save_pretrained(folder / "tiny-llama")
    base = resolve_model(str(folder / "tiny-llama"))
    return Personal(base, tiny_adapter(base, folder / "own"), plain.chat, model)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The models that were smoothed."""
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    models: list[Any] = []

    def noted(model: Any, *given: Any) -> AbstractContextManager[None]:
        models.append(model)
        return smoothed(model, *given)

    monkeypatch.setattr(exporters.export, "smoothed", noted)
    return models


def made(personal: Personal, out: Path, **settings: Any) -> dict[str, Any]:
    """What verification finds in the bundle `out`, made with `settings`."""
    recipe = ExportRecipe(preset="faithful", windows=2, context_length=128, **settings)
    windows = bundling.calibration(recipe, personal.base)
    bundling.make_bundle(personal.base, personal.adapter, recipe, out, name="anna", windows=windows)
    return bundling.verify_bundle(out, personal.base, personal.adapter, LOOSE, windows=windows)


def test_smoothing_makes_the_bundle_more_faithful(
    personal: Personal, seen: list[Any], tmp_path: Path
) -> None:
    rounded = made(personal, tmp_path / "rounded", runtime="onnx", calibration="none")
    assert not seen
    assert open_bundle(tmp_path / "rounded").precision.calibration is None
    smooth = made(personal, tmp_path / "smooth", runtime="onnx", calibration="neutral")
    assert len(seen) == 2  # the person's own and the base beside it
    about = open_bundle(tmp_path / "smooth").precision.calibration
    assert about is not None and about.windows == 2
    assert smooth["survival"]["correlation_mean"] > 0.95
    assert smooth["kl_neutral"] < 0.5 * rounded["kl_neutral"]


def test_an_executorch_bundle_is_smoothed(personal: Personal, seen: list[Any], tmp_path: Path) -> None:
    smooth = made(personal, tmp_path / "smooth", runtime="executorch", calibration="neutral")
    assert len(seen) == 2
    assert smooth["survival"]["correlation_mean"] > 0.95
    assert smooth["kl_neutral"] < 0.01


def test_attached_adapters_read_the_bases_own_activations(
    personal: Personal, seen: list[Any], tmp_path: Path
) -> None:
    found = made(personal, tmp_path / "bundle", runtime="onnx", calibration="neutral", form="attached")
    assert not seen and open_bundle(tmp_path / "bundle").precision.calibration is None
    assert found["survival"]["correlation_mean"] > 0.5  # of a model that rounds as badly as this one


def test_an_unknown_architecture_is_not_smoothed(
    personal: Personal, seen: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.quantise.smooth._ARCHITECTURES", set())
    made(personal, tmp_path / "bundle", runtime="onnx", calibration="neutral")
    assert not seen and open_bundle(tmp_path / "bundle").precision.calibration is None
