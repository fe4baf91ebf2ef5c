"""Exports that cannot be made, and bundles that cannot be loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import Personal, tiny_base, tiny_personal

from exporters.bundle import open_bundle
from exporters.export import export_bundle
from exporters.onnx.builder import build_onnx, supported_architectures
from exporters.presets import scheme_of
from runtimes import open_engine
from toolkit.errors import BundleError, EdgePLMError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")


def one_thread_engine(folder: Path) -> Any:
    return open_engine(folder, 1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Personal:
    return tiny_personal(tmp_path_factory.mktemp("llama"))


def test_an_unsupported_architecture_names_the_supported(llama: Personal, tmp_path: Path) -> None:
    import transformers

    config = transformers.MambaConfig(vocab_size=384, hidden_size=32, num_hidden_layers=1, eos_token_id=2)
    model = transformers.MambaForCausalLM(config)
    with pytest.raises(ModelError) as error:
        export_bundle(model, llama.chat, llama.job(), tmp_path / "b", one_thread_engine)
    assert "the architecture MambaForCausalLM cannot be exported to ONNX Runtime GenAI" in str(error.value)
    for name in ("LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM"):
        assert name in str(error.value)
        assert name in supported_architectures()
    assert list(tmp_path.iterdir()) == []  # nothing half-made is left


def test_gemma_with_rope_scaling_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, "gemma3")
    path = base.folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"]["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    path.write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"rotary scaling \(linear\) cannot be exported.*without rope scaling"
    ):
        build_onnx(base.folder, tmp_path / "out", 128, [2])


def test_unknown_names() -> None:
    for field, value, known in (
        ("precision", "int3", "int4, int8"),
        ("preset", "tiny", "smallest, balanced"),
        ("runtime", "onyx", "onnx, executorch"),
    ):
        with pytest.raises(
            EdgePLMError, match=rf"^export\.{field}: unknown {field} '{value}'\. Known: {known}"
        ):
            scheme_of(**({"preset": "balanced", "precision": None, "runtime": "onnx"} | {field: value}))


def test_a_builder_that_fails_is_a_clear_error(
    llama: Personal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime_genai.models import builder

    def fail(*_args: object) -> None:
        raise KeyError("position_ids")

    monkeypatch.setattr(builder, "parse_extra_options", fail)
    with pytest.raises(ModelError, match=r"builder failed \(KeyError: 'position_ids'\)\. Report it"):
        export_bundle(llama.model, llama.chat, llama.job(), tmp_path / "b", one_thread_engine)
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_not_overwritten_unless_asked(llama: Personal, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.txt").write_text("mine")
    with pytest.raises(EdgePLMError, match=r"already exists.*--force"):
        export_bundle(llama.model, llama.chat, llama.job(), tmp_path / "b", one_thread_engine)
    assert (tmp_path / "b/mine.txt").read_text() == "mine"
    export_bundle(llama.model, llama.chat, llama.job(), tmp_path / "b", one_thread_engine, force=True)
    assert not (tmp_path / "b/mine.txt").exists()
    open_bundle(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_bundle_that_the_runtime_cannot_load(llama: Personal, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    export_bundle(llama.model, llama.chat, llama.job(), folder, one_thread_engine)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:100])
    with pytest.raises(
        BundleError, match=r"cannot load it \(.+\)\. Check it with `edgeplm verify`, or export"
    ):
        one_thread_engine(folder)
