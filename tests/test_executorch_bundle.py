"""ExecuTorch bundles as the toolkit makes them: verified like ONNX ones, with people attached."""

from pathlib import Path

import numpy as np
import pytest
from tiny import Personal, tiny_adapter, tiny_personal

from exporters.adapters import add_adapter, remove_adapter
from exporters.bundle import open_bundle
from runtimes import open_engine
from runtimes.golden import repeat_golden
from toolkit import bundling
from toolkit.recipe import ExportRecipe, VerifyRecipe

pytestmark = pytest.mark.usefixtures("one_thread")
LOOSE = VerifyRecipe(prompts=2, continuation=4, min_correlation=-1, min_size=0, max_size=9, max_kl=99)


@pytest.fixture(scope="module")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Personal:
    return tiny_personal(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bundle(personal: Personal, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "bundle"
    settings = ExportRecipe(
        runtime="executorch", form="attached", preset="faithful", calibration="none", context_length=128
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPLM_CACHE", str(out.parent / "cache"))
        bundling.make_bundle(personal.base, personal.adapter, settings, out, name="anna")
    return out


def test_the_bundle_is_whole_and_its_base_repeats_its_answers(bundle: Path) -> None:
    manifest = open_bundle(bundle)
    assert manifest.runtime.name == "executorch" and manifest.precision.preset == "faithful"
    names = {file.path for file in manifest.files}
    assert {"model.pte", "base.ptd", "tokenizer.json", "adapters/anna.pte"} <= names
    engine = open_engine(bundle, 1)
    assert [each.problem for each in repeat_golden(engine, manifest)] == [None] * len(manifest.golden)
    engine.close()


def test_verification_finds_the_adapters_effect(bundle: Path, personal: Personal) -> None:
    found = bundling.verify_bundle(bundle, personal.base, personal.adapter, LOOSE)
    assert found["survival"]["correlation_mean"] > 0.95
    assert 0.8 < found["survival"]["size_mean"] < 1.2


def test_people_come_and_go(bundle: Path, personal: Personal, tmp_path: Path) -> None:
    other = tiny_adapter(personal.base, tmp_path / "other", size=0.1)
    base_file = (bundle / "base.ptd").stat().st_mtime_ns
    add_adapter(bundle, "ben", other)
    assert (bundle / "base.ptd").stat().st_mtime_ns == base_file
    prompt = personal.chat.prompt("What is the score of the following review?")
    engine = open_engine(bundle, 1)
    said = {}
    for name in (None, "anna", "ben", "anna", None):
        engine.use_adapter(name)
        logits = engine.prefill(prompt)
        assert np.array_equal(said.setdefault(name, logits), logits)  # back to what they were
    assert min(np.abs(said["anna"] - said[None]).max(), np.abs(said["ben"] - said["anna"]).max()) > 0.1
    engine.close()
    remove_adapter(bundle, "ben")
    assert [adapter.name for adapter in open_bundle(bundle).adapters] == ["anna"]
