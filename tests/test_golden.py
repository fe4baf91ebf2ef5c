"""Golden prompts here, on a device, and on what is damaged: real tiny bundles, the real runtime."""

import io
import json
import math
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import small_bundle
from fake_engine import FakeEngine
from sshd import needs_sshd
from tiny import Personal, tiny_personal

from exporters.bundle import GoldenCheck, Manifest, list_files, read_manifest, write_manifest
from exporters.export import ExportJob, export_bundle
from runtimes import open_engine
from runtimes.agent import Samples, execute
from runtimes.devices.golden import check_on_device
from runtimes.devices.local import LocalDevice
from runtimes.golden import FLOAT, GAP, ROUNDED, Repeat, agreement, repeat_golden
from runtimes.plan import Plan
from toolkit.errors import BundleError, DeviceError
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
CHECK = GoldenCheck([1, 2], [7, 8, 9], [5.0, 4.0, 3.0], [7, 8])
EXACT = Repeat([5.0, 4.0, 3.0], 2.0, [7, 8], [0.0, 0.0])
LIMIT = ROUNDED * EXACT.spread


@dataclass(frozen=True)
class Shipped(Personal):
    """With its int4 bundle, and the base's."""

    bundle: Path
    base_bundle: Path


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folder = tmp_path_factory.mktemp("golden")
    personal = tiny_personal(folder)
    job = personal.job(precision="int4")
    base_job: ExportJob = personal.job(precision="int4", adapter=None, name="base")
    for model, each, name in (
        (personal.model, job, "bundle"),
        (load_model(personal.base), base_job, "base-bundle"),
    ):
        export_bundle(model, personal.chat, each, folder / name, lambda path: open_engine(path, 1))
    return Shipped(**vars(personal), bundle=folder / "bundle", base_bundle=folder / "base-bundle")


def copied(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder)
    return folder


def sealed(folder: Path) -> Path:
    """The manifest has the files' hashes of now: what is wrong is not found by its hash."""
    write_manifest(folder, replace(read_manifest(folder), files=list_files(folder)))
    return folder


def flip_signs(folder: Path, share: float) -> None:
    """Turn over the sign of `share` of the int4 weights of one matrix in the middle of the model."""
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    matrices = [node for node in graph.node if node.op_type == "MatMulNBits"]
    name = matrices[len(matrices) // 2].input[1]
    tensor = next(each for each in graph.initializer if each.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = np.memmap(
        folder / place["location"], np.uint8, "r+", int(place["offset"]), (int(place["length"]),)
    )
    flipped = np.random.default_rng(0).random(len(data)) < share
    data[flipped] ^= 0x88
    data.flush()


def changed(**fields: Any) -> str | None:
    return agreement(2, CHECK, replace(EXACT, **fields), "int4").problem


def test_what_agrees_and_what_does_not() -> None:
    assert changed() is None
    # One of three logits off by d: without the common third, sqrt((4/9 + 1/9 + 1/9) / 3) of d.
    assert changed(top_logits=[5.0 + 2.12 * LIMIT, 4.0, 3.0]) is None
    assert changed(top_logits=[5.0 + 2.13 * LIMIT, 4.0, 3.0]) == (
        f"golden prompt 2: logits are off by {2.13 * LIMIT * math.sqrt(2) / 3:.3g}, at most {LIMIT:.3g}"
    )
    assert changed(top_logits=[-4.0, -5.0, -6.0]) is None  # the same probabilities
    assert changed(tokens=[7, 11], gaps=[0.0, (GAP - 0.01) * LIMIT]) is None
    assert changed(tokens=[7, 11], gaps=[0.0, (GAP + 0.01) * LIMIT]) == (
        f"golden prompt 2: another token's logit is higher by {(GAP + 0.01) * LIMIT:.3g}, "
        f"at most {GAP * LIMIT:.3g}"
    )
    for broken in ({"top_logits": [math.nan, 4.0, 3.0]}, {"spread": math.inf}, {"gaps": [0.0, math.nan]}):
        assert changed(**broken) == "golden prompt 2: logits are not numbers"
    # All logits alike: nothing may be off.
    assert changed(spread=0.0, top_logits=[0.0, 0.0, 0.0]) is not None


def test_float_weights_may_be_off_by_less() -> None:
    off = replace(EXACT, top_logits=[5.0, 4.0, 3.0 + 4 * FLOAT * EXACT.spread])
    assert agreement(1, CHECK, off, "int4").problem is None
    assert agreement(1, CHECK, off, "fp32").problem is not None


def test_a_golden_prompt_that_cannot_be_asked_is_an_error(tmp_path: Path) -> None:
    manifest = read_manifest(small_bundle(tmp_path / "b"))
    for check, said in (
        (replace(CHECK, continuation=[50]), "the model has no token 50"),
        (replace(CHECK, top_tokens=[-1]), "the model has no token -1"),
        (replace(CHECK, prompt=[1] * 199), "201 tokens do not fit a context of 200"),
        (replace(CHECK, prompt=[]), "2 tokens do not fit"),
    ):
        with pytest.raises(BundleError, match=f"^manifest.json, field golden\\[0\\]: {said}"):
            repeat_golden(FakeEngine(tmp_path), replace(manifest, golden=[check]))


def test_a_plan_asks_for_golden_prompts_only_where_it_says_so() -> None:
    assert "golden" not in Plan("b").as_dict()
    assert Plan("b", repeats=0, golden=True).as_dict()["golden"] is True
    with pytest.raises(DeviceError, match="golden: found 1, accepted: true or false"):
        Plan("b", golden=1)  # type: ignore[arg-type]


def test_the_agent_writes_what_it_found_and_measures_nothing(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "b")
    golden = [GoldenCheck([3, 4], [5, 6], [1.0, 0.0], [5, 6, 9])]
    write_manifest(folder, replace(read_manifest(folder), golden=golden))
    stream = io.StringIO()
    execute(Plan(str(folder), repeats=0, golden=True), Samples(stream), FakeEngine)
    samples = [json.loads(line) for line in stream.getvalue().splitlines()]
    (found,) = (sample for sample in samples if sample["kind"] == "golden")
    assert (found["index"], found["top_logits"], found["tokens"]) == (0, [1.0, 0.0], [5, 6, 7])
    assert found["gaps"] == [0.0, 0.0, 1.0]  # each place is asked with the manifest's own tokens before it
    assert found["spread"] == pytest.approx(math.sqrt(1 / 50 - 1 / 50**2))
    assert not [sample for sample in samples if sample["kind"] in ("prefill", "decode")]


def test_the_same_bundle_agrees_in_a_process_of_its_own(shipped: Shipped) -> None:
    found = check_on_device(shipped.bundle, read_manifest(shipped.bundle), LocalDevice())
    assert found.problems == [] and found.runtime == "onnxruntime-genai"
    assert [each.same_tokens for each in found.agreements] == [each.tokens for each in found.agreements]
    assert all(each.difference < 0.01 * each.limit for each in found.agreements)


def test_the_wrong_adapter_is_found_out(shipped: Shipped, tmp_path: Path) -> None:
    folder = copied(shipped.base_bundle, tmp_path / "b")
    golden = read_manifest(shipped.bundle).golden
    write_manifest(folder, replace(read_manifest(folder), golden=golden))
    assert problems_of(folder)


def test_a_few_damaged_weights_are_found_out(shipped: Shipped, tmp_path: Path) -> None:
    folder = copied(shipped.bundle, tmp_path / "b")
    flip_signs(folder, 0.1)
    assert problems_of(sealed(folder))


def problems_of(folder: Path) -> list[str]:
    engine = open_engine(folder, 1)
    try:
        return [each.problem for each in repeat_golden(engine, read_manifest(folder)) if each.problem]
    finally:
        engine.close()


def test_a_bundle_without_golden_prompts_is_an_error(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match=r"has no golden prompts to repeat\. Export the bundle again"):
        check_on_device(folder, read_manifest(folder), LocalDevice())


@pytest.mark.parametrize("samples", [[], [{"kind": "golden"}], [{"kind": "golden", "top_logits": [1.0]}]])
def test_a_device_that_answers_too_little_is_an_error(tmp_path: Path, samples: list[Any]) -> None:
    class Silent(LocalDevice):
        def run(self, plan: Plan, on_sample: Any = None) -> Any:
            return samples

    folder = small_bundle(tmp_path / "b")
    manifest: Manifest = replace(read_manifest(folder), golden=[CHECK])
    with pytest.raises(
        DeviceError, match=r"^device local, step golden prompts: answered 0 of 1 golden prompts"
    ):
        check_on_device(folder, manifest, Silent())


@needs_sshd
def test_a_board_over_ssh_is_judged_on_the_command_line(shipped, sshd, edgeplm_here, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPLM_SSH_CONFIG", str(sshd.config))
    environment = sshd.prepare("onnxruntime-genai")
    (environment / "python").write_text(f'agent=$1; shift\nexec {sys.executable} -P "$agent" "$@"\n')
    status, out, err = edgeplm_here("verify", shipped.bundle, "--device", sshd.name)
    assert (status, err) == (0, "")
    assert sshd.name in out and "12 of 12" in out and "All checks passed." in out
    assert max(map(len, out.splitlines())) <= 80
    folder = copied(shipped.bundle, tmp_path / "b")
    flip_signs(folder, 0.1)
    status, out, err = edgeplm_here("verify", sealed(folder), "--device", sshd.name)
    assert status == 3 and "Check fell short: golden prompt" in err and "differs" in out
    status, out, _ = edgeplm_here("verify", folder, "--device", sshd.name, "--json")
    said = json.loads(out)
    assert status == 3 and said["passed"] is False and len(said["golden"]) == 3 and said["problems"]
    assert said["device"] == sshd.name and said["runtime"] == "onnxruntime-genai"


def test_faults_on_the_command_line(edgeplm_here, tmp_path):
    folder = small_bundle(tmp_path / "b")
    status, _, err = edgeplm_here("verify", folder, "--device", "local", "--adapter", tmp_path)
    assert status == 2 and "leave out --device" in err
    status, _, err = edgeplm_here("verify", folder, "--device", "toaster")
    assert status == 1 and "device 'toaster': unknown device" in err
    (folder / "model.onnx").write_bytes(b"")
    status, _, err = edgeplm_here("verify", folder, "--device", "local")
    assert status == 1 and "model.onnx: has 0 bytes" in err
