"""Adapters switched at run time: what they answer is what the merged model answers, by stock APIs alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attached import INT8, MIXED, Built, build, ids, lora, seal
from tiny import ARCHITECTURES

from exporters.adapters import add_adapter
from exporters.merge import merge_adapter
from exporters.onnx.slots import DTYPES, add_slots_to_folder
from exporters.quantise.grid import Scheme
from runtimes import Engine, open_engine
from runtimes.torch_engine import TorchEngine
from toolkit.errors import BundleError
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [ids(5), ids(40, 1), ids(120, 2)]
TARGETS = {"anna": "all-linear", "bo": ["q_proj", "v_proj"]}
# The largest difference of logits from the merged float model's: kernels add in another order, float16 and
# int8 round A and B.
CLOSE = {"float32": 1e-4, "float16": 2e-3, "int8": 0.05}


@dataclass(frozen=True)
class People:
    """Two people's adapters of different ranks and targets, and what their merged float models answer."""

    built: Built
    adapters: dict[str, Path]
    answers: dict[str, Any]

    def bundle(self, folder: Path, dtype: str) -> Path:
        """A bundle with slots and both people in it."""
        bundle = shutil.copytree(self.built.bundle, folder)
        add_slots_to_folder(bundle, ["all-linear"], dtype)
        seal(bundle)
        for name, adapter in self.adapters.items():
            add_adapter(bundle, name, adapter)
        return bundle


def answers_of(engine: Engine) -> Any:
    """Logits after each prompt and after one token more."""
    return np.array([each for prompt in PROMPTS for each in (engine.prefill(prompt), engine.decode(7))])


def gather(folder: Path, arch: str) -> People:
    built = build(folder, arch)
    adapters = {
        "anna": lora(built.base, folder / "anna", r=4, seed=1),
        "bo": lora(built.base, folder / "bo", r=9, seed=2, target_modules=TARGETS["bo"]),
    }
    answers = {"": answers_of(TorchEngine(built.model))}
    for name, adapter in adapters.items():
        answers[name] = answers_of(TorchEngine(merge_adapter(load_model(built.base), adapter)))
    return People(built, adapters, answers)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def people(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> People:
    return gather(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[People, Path]:
    people = gather(tmp_path_factory.mktemp("shipped"), "llama")
    return people, people.bundle(tmp_path_factory.mktemp("out") / "b", "int8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_attached_is_merged_and_people_switch_back_and_forth(
    people: People, tmp_path: Path, dtype: str
) -> None:
    engine = open_engine(people.bundle(tmp_path / "b", dtype), 1)
    assert engine.adapters == ["anna", "bo"]
    base = answers_of(engine)
    assert np.abs(base - people.answers[""]).max() < 1e-4
    for name in ("anna", "bo", "anna", None, "bo", None):
        engine.use_adapter(name)
        found = answers_of(engine)
        if name is None:
            assert np.array_equal(found, base)
            continue
        wanted = people.answers[name]
        assert np.abs(wanted - base).max() > 0.3  # it changes the answers, by far more than what is off
        assert np.abs(found - wanted).max() < CLOSE[dtype]
        effect, found_effect = (wanted - base).ravel(), (found - base).ravel()
        assert np.corrcoef(effect, found_effect)[0, 1] > 0.9995
    engine.close()


@pytest.mark.parametrize("scheme", [INT8, MIXED])
def test_a_quantised_base_takes_adapters_too(scheme: Scheme, tmp_path: Path) -> None:
    built = build(tmp_path, scheme=scheme)
    adapter = lora(built.base, tmp_path / "anna")
    base = answers_of(TorchEngine(built.model))
    wanted = answers_of(TorchEngine(merge_adapter(built.model, adapter))) - base
    add_slots_to_folder(built.bundle, ["all-linear"])
    seal(built.bundle)
    add_adapter(built.bundle, "anna", adapter)
    engine = open_engine(built.bundle, 1)
    plain = answers_of(engine)
    engine.use_adapter("anna")
    effect = answers_of(engine) - plain
    assert np.abs(wanted).max() > 0.3
    # The runtime rounds a quantised layer's inputs to int8, torch does not.
    assert np.corrcoef(effect.ravel(), wanted.ravel())[0, 1] > 0.99


def test_switching_forgets_what_was_read(shipped: tuple[People, Path]) -> None:
    engine = open_engine(shipped[1], 1)
    engine.prefill(PROMPTS[0])
    engine.use_adapter("bo")
    with pytest.raises(RuntimeError, match="decode before prefill"):
        engine.decode(3)
    engine.close()


def test_someone_added_while_the_engine_runs(shipped: tuple[People, Path], tmp_path: Path) -> None:
    people, bundle = shipped[0], shutil.copytree(shipped[1], tmp_path / "b")
    engine = open_engine(bundle, 1)
    add_adapter(bundle, "carl", people.adapters["bo"])
    engine.use_adapter("carl")
    assert np.abs(answers_of(engine) - people.answers["bo"]).max() < CLOSE["int8"]


def test_nobody_of_that_name(shipped: tuple[People, Path]) -> None:
    engine = open_engine(shipped[1], 1)
    with pytest.raises(BundleError, match=r"has no attached adapter 'zoe'\. It has: anna, bo"):
        engine.use_adapter("zoe")
    assert np.abs(answers_of(engine) - shipped[0].answers[""]).max() < 1e-4
    torch = TorchEngine(shipped[0].built.model)
    assert torch.adapters == []
    torch.use_adapter(None)
    with pytest.raises(BundleError, match=r"^torch: has no attached adapter 'anna'\. It has: none"):
        torch.use_adapter("anna")


def test_a_damaged_adapter_file(shipped: tuple[People, Path], tmp_path: Path) -> None:
    bundle = shutil.copytree(shipped[1], tmp_path / "b")
    (bundle / "adapters/bo.onnx_adapter").write_bytes(b"\0" * 500)
    engine = open_engine(bundle, 1)
    with pytest.raises(BundleError, match=r"bo\.onnx_adapter: .*cannot load it.*edgeplm adapters add"):
        engine.use_adapter("bo")
    engine.use_adapter("anna")
    assert np.abs(answers_of(engine) - shipped[0].answers["anna"]).max() < CLOSE["int8"]


STOCK = """
import json, sys
for name in ("toolkit", "exporters", "runtimes", "benchmarks", "torch", "transformers"):
    sys.modules[name] = None  # importing it is an error
import onnxruntime_genai as og

folder, prompt = sys.argv[1], json.loads(sys.argv[2])
model = og.Model(folder)
adapters = og.Adapters(model)
for name in ("anna", "bo"):
    adapters.load(f"{folder}/adapters/{name}.onnx_adapter", name)
found = {}
for name in ("", "anna", "bo"):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False)
    generator = og.Generator(model, parameters)
    if name:
        generator.set_active_adapter(adapters, name)
    generator.append_tokens(prompt)
    found[name] = generator.get_logits().ravel().tolist()
print(json.dumps(found))
"""


def test_the_stock_api_alone_switches(shipped: tuple[People, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-c", STOCK, str(shipped[1]), json.dumps(PROMPTS[1])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    for name, wanted in shipped[0].answers.items():
        assert np.abs(np.array(found[name]) - wanted[2]).max() < (CLOSE["int8"] if name else 1e-4)


def test_plain_onnxruntime_takes_the_same_file(shipped: tuple[People, Path]) -> None:
    import onnxruntime as ort

    people, bundle = shipped
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(bundle / "model.onnx"), options)
    prompt = PROMPTS[1]
    feeds: dict[str, Any] = {
        "input_ids": np.array([prompt], np.int64),
        "attention_mask": np.ones((1, len(prompt)), np.int64),
    }
    for entry in session.get_inputs():
        if entry.name.startswith("past_key_values"):
            feeds[entry.name] = np.zeros((1, 2, 0, 16), np.float32)
    for name, wanted in people.answers.items():
        run = ort.RunOptions()
        if name:
            adapter = ort.LoraAdapter()
            adapter.Load(str(bundle / f"adapters/{name}.onnx_adapter"))
            run.add_active_adapter(adapter)
        logits = session.run(["logits"], feeds, run)[0]
        assert np.abs(logits[0, -1] - wanted[2]).max() < (CLOSE["int8"] if name else 1e-4)
