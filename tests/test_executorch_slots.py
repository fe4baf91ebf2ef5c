"""Attached adapters for ExecuTorch: one base file, a small program for each person."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import attached
import numpy as np
import pytest
import torch
from tiny import tiny_base

from exporters.bundle import AdapterInfo, read_manifest, write_manifest
from exporters.executorch import PROGRAM, build_executorch
from exporters.executorch.slots import BASE, SPEC, TEMPLATE, Slots, write_person
from exporters.merge import merge_adapter
from exporters.onnx.adapter_file import read_low_rank
from exporters.quantise.grid import XNNPACK_INT8, QuantisedWeight
from exporters.quantise.solve import quantise
from runtimes.executorch import ExecuTorchEngine
from runtimes.torch_engine import TorchEngine
from toolkit.errors import AdapterError, BundleError, ModelError
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXT = 96
PEOPLE = {"anna": ["q_proj", "v_proj"], "bo": ["v_proj", "down_proj"]}


@dataclass(frozen=True)
class Shared:
    base: Any
    weights: dict[str, QuantisedWeight]
    folder: Path
    adapters: dict[str, Path]

    def model(self, person: str | None = None) -> Any:
        """The float model of the weights that the programs compute with."""
        model = load_model(self.base).eval()
        for name, weight in self.weights.items():
            model.get_submodule(name).weight.data = weight.dequantise()
        return model if person is None else merge_adapter(model, self.adapters[person])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """A base in int8, and two people of different rank and targets over it."""
    root = tmp_path_factory.mktemp("shared")
    base, folder = tiny_base(root), root / "bundle"
    (folder / "adapters").mkdir(parents=True)
    model = load_model(base).eval()
    weights = {
        name: quantise(each.weight.detach(), XNNPACK_INT8)
        for name, each in model.named_modules()
        if isinstance(each, torch.nn.Linear)
    }
    slots = Slots(8, ("q_proj", "v_proj", "down_proj"))
    build_executorch(model, weights, folder, context_length=CONTEXT, bos=1, stop=[2], slots=slots)
    adapters, known = {}, []
    for number, (name, targets) in enumerate(PEOPLE.items()):
        rank = 4 + 4 * number
        options = {"target_modules": targets, "r": rank, "lora_alpha": 2 * rank}
        adapters[name] = attached.lora(base, root / name, seed=number, size=0.2, **options)
        file = f"adapters/{name}.pte"
        write_person(folder, read_low_rank(adapters[name]), folder / file)
        known.append(AdapterInfo(name, "attached", "ab" * 32, rank, 2.0 * rank, targets, file))
    attached.seal(folder)
    write_manifest(folder, replace(read_manifest(folder), adapters=known))
    return Shared(base, weights, folder, adapters)


def test_each_person_gets_their_own_answers_and_the_base_its_own(shared: Shared) -> None:
    engine, prompt = ExecuTorchEngine(shared.folder), attached.ids(40)
    assert engine.adapters == list(PEOPLE)
    found, wanted = {}, {}
    for person in (None, "anna", "bo", None, "anna"):
        engine.use_adapter(person)
        logits = engine.prefill(prompt)
        assert np.array_equal(logits, found.setdefault(person, logits))  # whoever answered before
        wanted.setdefault(person, TorchEngine(shared.model(person)).prefill(prompt))
    assert np.corrcoef(found[None], wanted[None])[0, 1] > 0.999
    for person in PEOPLE:
        effect, true_effect = found[person] - found[None], wanted[person] - wanted[None]
        assert np.abs(true_effect).max() > 0.5
        assert np.corrcoef(effect, true_effect)[0, 1] > 0.98
        assert abs(effect.std() / true_effect.std() - 1) < 0.1
    with pytest.raises(BundleError, match="has no attached adapter 'cy'"):
        engine.use_adapter("cy")


def test_a_persons_program_is_small_and_the_base_is_left_alone(shared: Shared, tmp_path: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in shared.folder.rglob("*.p*") if path.is_file()}
    assert sizes["anna.pte"] == sizes["bo.pte"] == sizes[PROGRAM] == sizes[TEMPLATE]
    before = (shared.folder / f"{BASE}.ptd").read_bytes()
    for weight in shared.weights.values():  # the head, which is the embedding too, is no exception
        assert before.count((weight.codes.to(torch.int16) - 128).to(torch.int8).numpy().tobytes()) == 1
    assert sizes["anna.pte"] < sizes["base.ptd"]
    write_person(shared.folder, read_low_rank(shared.adapters["bo"]), tmp_path / "again.pte")
    assert (tmp_path / "again.pte").read_bytes() == (shared.folder / "adapters/bo.pte").read_bytes()
    assert (shared.folder / f"{BASE}.ptd").read_bytes() == before


def test_without_its_base_a_program_is_refused(shared: Shared, tmp_path: Path) -> None:
    (tmp_path / PROGRAM).write_bytes((shared.folder / PROGRAM).read_bytes())
    with pytest.raises(BundleError, match="cannot load it"):
        ExecuTorchEngine(tmp_path)


def test_adapters_that_do_not_fit_are_refused(shared: Shared, tmp_path: Path) -> None:
    out = tmp_path / "person.pte"
    for options, message in (
        ({"target_modules": ["o_proj"]}, "changes a layer that has no slot"),
        ({"target_modules": ["q_proj"], "r": 16}, "has a higher rank than the slots' 8"),
    ):
        adapter = attached.lora(shared.base, tmp_path / message[:3], **options)
        with pytest.raises(AdapterError, match=message) as caught:
            write_person(shared.folder, read_low_rank(adapter), out)
        assert caught.value.where and caught.value.mend
    changes = read_low_rank(shared.adapters["anna"])
    name, change = next(iter(changes.items()))
    with pytest.raises(AdapterError, match="does not fit a layer of"):
        write_person(shared.folder, {name: replace(change, a=change.a[:, 1:])}, out)
    with pytest.raises(BundleError, match="does not say what adapters fit"):
        write_person(tmp_path, changes, out)
    (tmp_path / SPEC).write_bytes((shared.folder / SPEC).read_bytes())
    with pytest.raises(BundleError, match="cannot be read"):
        write_person(tmp_path, changes, out)
    (tmp_path / TEMPLATE).write_bytes((shared.folder / "adapters/bo.pte").read_bytes())
    with pytest.raises(BundleError, match="is not the program"):
        write_person(tmp_path, changes, out)
    assert not out.exists()


def test_slots_need_integer_layers(shared: Shared, tmp_path: Path) -> None:
    model = load_model(shared.base)
    with pytest.raises(ModelError, match="no integer layer of the model is one of q_proj"):
        build_executorch(model, {}, tmp_path, context_length=64, bos=1, stop=[2], slots=Slots(4, ("q_proj",)))


STOCK = """
import sys
for name in ("toolkit", "exporters", "runtimes", "benchmarks"):
    sys.modules[name] = None  # importing it is an error
import executorch.extension.llm.custom_ops.custom_ops, executorch.kernels.quantized
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

for program in sys.argv[3:]:
    runner = TextLLMRunner(program, sys.argv[1], sys.argv[2])
    runner.prefill("a review of the book", GenerationConfig(echo=False, temperature=0.0))
"""


def test_the_stock_runner_loads_the_base_and_every_person(shared: Shared) -> None:
    tokenizer = Path(shared.base.folder) / "tokenizer.json"
    programs = [shared.folder / PROGRAM, *(shared.folder / f"adapters/{name}.pte" for name in PEOPLE)]
    paths = [str(tokenizer), str(shared.folder / f"{BASE}.ptd"), *map(str, programs)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOCK, *paths], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
