"""Bundles: what the runtime computes is what torch computes, and the stock API needs none of our code."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, CONTEXT_LENGTH, TURN_END, Personal, tiny_personal

from exporters.bundle import AdapterInfo, Manifest, Provenance, open_bundle
from exporters.export import export_bundle
from exporters.golden import golden_checks
from exporters.merge import read_adapter
from exporters.quantise.store import read_weights
from exporters.twin import base_twin, base_weights
from runtimes import open_engine
from runtimes.golden import Agreement, repeat_golden
from runtimes.torch_engine import TorchEngine
from toolkit.chat import ChatFormat
from toolkit.files import sha256_of
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXT = 160
PROVENANCE = Provenance(real_examples=6, synthetic_examples=2, synthetic_share=0.25, teacher="t")
TEXTS = (
    "What is the score of the following review? Just answer with 1, 2, 3, 4, or 5.",
    "Zwölf Boxkämpfer jagen Viktor, 3 × 7 = 21 … naïve 本 🙂",
    "  two  spaces,\n\na blank line and a\ttab",
    "<|im_end|> in the middle of a text",
)


@dataclass(frozen=True)
class Exported(Personal):
    """With its float32 bundle."""

    bundle: Path
    manifest: Manifest


def one_thread_engine(folder: Path) -> Any:
    return open_engine(folder, 1)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    made = tiny_personal(folder, request.param)
    job = made.job(provenance=PROVENANCE)
    manifest = export_bundle(made.model, made.chat, job, folder / "bundle", one_thread_engine)
    return Exported(made.base, made.adapter, made.chat, made.model, folder / "bundle", manifest)


def random_ids(count: int) -> list[int]:
    return np.random.RandomState(0).randint(3, 380, count).tolist()


def test_the_bundle_computes_what_torch_computes(exported: Exported) -> None:
    ids = random_ids(120)  # past the tiny Gemma's window of 64
    reference, engine = TorchEngine(exported.model), one_thread_engine(exported.bundle)
    assert (engine.context_length, engine.vocab_size) == (CONTEXT, reference.vocab_size)
    wanted = reference.score(ids)
    assert np.abs(engine.score(ids) - wanted).max() < 1e-3
    assert np.abs(engine.prefill(ids[:80]) - reference.prefill(ids[:80])).max() < 1e-3
    for token in ids[80:]:
        assert np.abs(engine.decode(token) - reference.decode(token)).max() < 1e-3
    # From a prompt within the window, decoding over its end.
    engine.prefill(ids[:10])
    for place, token in enumerate(ids[10:], start=10):
        assert np.abs(engine.decode(token) - wanted[place]).max() < 1e-3
    prompt = exported.chat.prompt(TEXTS[0])
    assert list(engine.generate(prompt, 20, [])) == list(reference.generate(prompt, 20, []))
    engine.close()


def test_torch_prefill_and_decode_equal_score(exported: Exported) -> None:
    ids = random_ids(100)
    engine = TorchEngine(exported.model)
    wanted = engine.score(ids)
    assert wanted.shape == (100, engine.vocab_size)
    assert np.abs(engine.prefill(ids[:50]) - wanted[49]).max() < 1e-4
    for place, token in enumerate(ids[50:], start=50):
        assert np.abs(engine.decode(token) - wanted[place]).max() < 1e-4
    with torch.no_grad():
        plain = exported.model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(wanted - plain).max() < 1e-5


def test_the_runtimes_configuration_is_the_bundles(exported: Exported) -> None:
    config = json.loads((exported.bundle / "genai_config.json").read_text())
    assert config["model"]["context_length"] == config["search"]["max_length"] == CONTEXT
    assert [config["model"]["eos_token_id"]] == exported.manifest.tokens.stop == exported.chat.stop


def test_the_manifest_is_complete(exported: Exported) -> None:
    manifest = open_bundle(exported.bundle)
    assert manifest == exported.manifest
    facts = read_adapter(exported.adapter)
    assert manifest.adapters == [
        AdapterInfo("anna", "merged", facts.sha256, 4, 8.0, facts.targets),
    ]
    assert manifest.base_model.source == exported.base.source
    assert manifest.base_model.sha256 == exported.base.sha256
    assert manifest.base_model.architecture == type(exported.model).__name__
    assert manifest.base_model.parameters == sum(p.numel() for p in exported.model.parameters())
    assert manifest.runtime.name == "onnxruntime-genai"
    assert set(manifest.runtime.made_with) == {"torch", "transformers", "peft", "onnx", "onnxruntime"}
    assert (manifest.precision.name, manifest.context_length, manifest.name) == ("fp32", CONTEXT, "anna")
    assert manifest.precision.bits_per_weight == pytest.approx(32, abs=6)  # rotary tables count too
    tokenizer = exported.chat.tokenizer
    tokens = manifest.tokens
    assert (tokens.vocab_size, tokens.bos, tokens.pad) == (
        exported.model.config.vocab_size,
        tokenizer.bos_token_id,
        tokenizer.pad_token_id,
    )
    assert manifest.chat_template == tokenizer.chat_template
    assert tokens.stop_texts == [TURN_END] and manifest.chat_form is not None
    assert (manifest.task, manifest.provenance) == ({"name": "rewrite"}, PROVENANCE)
    assert len(manifest.golden) == 3
    on_disk = {path.name for path in exported.bundle.iterdir()} - {"manifest.json"}
    assert {file.path for file in manifest.files} == on_disk
    assert on_disk >= {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"}
    assert all(file.sha256 == sha256_of(exported.bundle / file.path) for file in manifest.files)


def test_golden_checks_repeat_and_a_changed_artifact_is_found_out(exported: Exported) -> None:
    engine = one_thread_engine(exported.bundle)
    assert golden_checks(engine, exported.chat) == exported.manifest.golden
    assert problems(repeat_golden(engine, exported.manifest)) == []
    engine.close()
    other_kernels = repeat_golden(TorchEngine(exported.model), exported.manifest)
    assert problems(other_kernels) == []
    assert all(0 < each.difference < each.limit / 10 for each in other_kernels)
    other = problems(repeat_golden(TorchEngine(load_model(exported.base)), exported.manifest))
    assert len(other) == 3
    assert other[0].startswith("golden prompt 1: logits are off by ")


def test_logits_that_are_no_numbers_fail_the_golden_checks(exported: Exported) -> None:
    class Broken(TorchEngine):
        """Computes nonsense."""

        def prefill(self, ids: Any) -> Any:
            logits = super().prefill(ids).copy()
            logits[int(logits.argmax())] = np.nan
            return logits

    found = repeat_golden(Broken(exported.model), exported.manifest)
    assert problems(found) == [f"golden prompt {number}: logits are not numbers" for number in (1, 2, 3)]
    assert found[0].as_dict()["difference"] is None


def test_the_adapter_changes_the_artifact(exported: Exported, tmp_path: Path) -> None:
    base = load_model(exported.base)
    twin_folder = base_twin(base, exported.chat, exported.job(), tmp_path, one_thread_engine)
    manifest = open_bundle(twin_folder)
    assert (manifest.adapters, manifest.task, manifest.name) == ([], None, "base")
    prompt = exported.chat.prompt(TEXTS[0])
    twin, artifact = one_thread_engine(twin_folder), one_thread_engine(exported.bundle)
    change = artifact.prefill(prompt) - twin.prefill(prompt)
    wanted = TorchEngine(exported.model).prefill(prompt) - TorchEngine(base).prefill(prompt)
    assert np.abs(wanted).max() > 0.1
    assert np.abs(change - wanted).max() < 2e-3
    before = (twin_folder / "manifest.json").read_bytes()
    assert base_twin(base, exported.chat, exported.job(), tmp_path, one_thread_engine) == twin_folder
    assert (twin_folder / "manifest.json").read_bytes() == before  # taken from the cache
    (twin_folder / "model.onnx").unlink()
    base_twin(base, exported.chat, exported.job(), tmp_path, one_thread_engine)
    open_bundle(twin_folder)  # made again


def test_the_quantised_base_is_kept_and_the_oldest_go(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, job = load_model(exported.base), exported.job(precision="int4", adapter=None)
    made = base_weights(base, job, tmp_path, None)
    (path,) = (tmp_path / "weights").iterdir()
    monkeypatch.setattr("exporters.twin.quantised_weights", lambda *_: pytest.fail("not from the cache"))
    again = base_weights(base, job, tmp_path, None)
    assert all(torch.equal(again[name].dequantise(), made[name].dequantise()) for name in made)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:1000])
    assert set(base_weights(base, job, tmp_path, None)) == set(made)  # damaged: made again
    monkeypatch.setattr("exporters.twin.KEPT", 1)
    base_weights(base, replace(job, precision="int8"), tmp_path, None)
    (left,) = (tmp_path / "weights").iterdir()
    assert {weight.grid.bits for weight in read_weights(left).values()} == {8}


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_quantised_bundles_run(exported: Exported, tmp_path: Path, precision: str) -> None:
    job = exported.job(precision=precision)
    manifest = export_bundle(exported.model, exported.chat, job, tmp_path / "b", one_thread_engine)
    assert manifest.precision.name == precision
    assert manifest.precision.bits_per_weight < exported.manifest.precision.bits_per_weight
    assert manifest.total_bytes < exported.manifest.total_bytes
    engine, ids = one_thread_engine(tmp_path / "b"), random_ids(100)
    found, wanted = engine.score(ids), TorchEngine(exported.model).score(ids)
    # Rounding of a random model's wide weights is coarse; a wrong graph would not correlate at all.
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > (0.85 if precision == "int4" else 0.99)
    assert problems(repeat_golden(engine, manifest)) == []


def problems(agreements: list[Agreement]) -> list[str]:
    return [each.problem for each in agreements if each.problem]


STOCK = """
import json, sys
for name in ("toolkit", "exporters", "runtimes", "benchmarks", "torch", "transformers"):
    sys.modules[name] = None  # importing it is an error
import onnxruntime_genai as og

folder, tokens, texts = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
template = [
    tokenizer.apply_chat_template(json.dumps([{"role": "user", "content": text}]), add_generation_prompt=True)
    for text in texts
]
prompts = [tokenizer.encode(text).tolist() for text in template]
parameters = og.GeneratorParams(model)
parameters.set_search_options(do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(prompts[0])
answer = []
while not generator.is_done() and len(answer) < tokens:
    generator.generate_next_token()
    answer.append(int(generator.get_next_tokens()[0]))
decoded = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
print(json.dumps({"prompts": prompts, "answer": answer, "decoded": decoded}))
"""


def test_the_stock_api_alone_loads_it_and_answers_the_same(exported: Exported, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOCK, str(exported.bundle), "12", json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    chat = exported.chat
    assert found["prompts"] == [chat.prompt(text) for text in TEXTS]
    wanted = list(TorchEngine(exported.model).generate(chat.prompt(TEXTS[0]), 12, chat.stop))
    answer = [token for token in found["answer"] if token not in chat.stop]
    assert answer == wanted
    assert len(answer) > 3
    assert found["decoded"][:3] == list(TEXTS[:3])


def test_several_stop_tokens_and_a_context_beyond_the_models(exported: Exported, tmp_path: Path) -> None:
    chat = ChatFormat(exported.chat.tokenizer, [0, 7])
    job = exported.job(context_length=10 * CONTEXT_LENGTH)
    manifest = export_bundle(exported.model, chat, job, tmp_path / "b", one_thread_engine)
    config = json.loads((tmp_path / "b/genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == manifest.tokens.stop == chat.stop == [0, 2, 7]
    assert config["search"]["max_length"] == manifest.context_length == CONTEXT_LENGTH
    assert exported.model.config.max_position_embeddings == CONTEXT_LENGTH


def test_prompts_that_do_not_fit_are_refused_by_both_engines(exported: Exported) -> None:
    for engine in (one_thread_engine(exported.bundle), TorchEngine(exported.model, CONTEXT)):
        for count in (0, CONTEXT):
            with pytest.raises(ValueError, match=f"a prompt of {count} tokens does not fit a context of 160"):
                engine.prefill(random_ids(count))
        assert len(list(engine.generate(random_ids(CONTEXT - 3), 50, []))) == 3
        with pytest.raises(RuntimeError, match="decode before prefill"):
            type(engine).decode(fresh(engine), 5)
        engine.close()
        engine.close()


def fresh(engine: Any) -> Any:
    """An engine of the same kind that has read nothing yet."""
    other = object.__new__(type(engine))
    other._cache = other._generator = None
    return other


def test_a_shorter_context_does_not_make_phi_3_another_architecture(tmp_path: Path) -> None:
    import transformers

    config = transformers.Phi3Config(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        original_max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model, other = transformers.Phi3ForCausalLM(config).eval(), tiny_personal(tmp_path)
    export_bundle(model, other.chat, other.job(), tmp_path / "b", one_thread_engine)
    engine, ids = one_thread_engine(tmp_path / "b"), random_ids(50)
    assert engine.context_length == CONTEXT < CONTEXT_LENGTH
    assert np.abs(engine.score(ids) - TorchEngine(model).score(ids)).max() < 1e-3
