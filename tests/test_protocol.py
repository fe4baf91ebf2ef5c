import dataclasses
import math
import sys
from pathlib import Path

import pytest
from fake_bundle import fake_bundle

from benchmarks.protocol import answer_on_device, benchmark, quality_on_device
from benchmarks.results import result_from_json
from runtimes.affinity import allowed_cores
from runtimes.devices.local import LocalDevice
from runtimes.facts import machine_facts
from toolkit.errors import BundleError, DeviceError
from toolkit.files import sha256_of

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]


@pytest.fixture
def bundle(tmp_path):
    return fake_bundle(tmp_path)


def small(bundle, **changes):
    options = {"prompt_tokens": 8, "decode_tokens": 4, "repeats": 3, "settle_seconds": 0, "energy_seconds": 0}
    return benchmark(bundle, LocalDevice(agent=FAKE), **(options | changes))


def test_a_benchmark_measures_and_says_on_what(bundle):
    found = small(bundle, threads=1)
    assert {"ttft", "prefill_rate", "decode_rate_at_0", "decode_rate_at_195", "peak_rss"} <= set(
        found.statistics
    )
    assert found.setting.depths == [0, 195]
    assert len(found.statistics["ttft"].values) == 3
    where = found.environment
    assert where.device == "local"
    facts = machine_facts().as_dict()
    assert {
        name: where.facts[name] for name in ("machine", "cpu", "memory_bytes", "kernel")
    }.items() <= facts.items()
    assert where.bundle.manifest_sha256 == sha256_of(bundle / "manifest.json")
    assert (where.bundle.name, where.bundle.precision, where.bundle.bytes) == ("fake-int4", "int4", 7)
    assert where.versions["numpy"]
    assert result_from_json(found.to_json()) == found


def test_one_repeat_is_measured_and_marked_invalid(bundle):
    found = small(bundle, repeats=1)
    assert not found.validity.valid
    assert "prefill: 1 repeat; a spread needs at least 3" in found.validity.reasons


def test_progress_counts_the_repeats(bundle):
    steps = []

    class Recorder:
        def step(self, label, total=None, unit=""):
            steps.append((label, total, unit))
            return self

        def __enter__(self):
            return steps.append

        def __exit__(self, *_):
            return None

        def note(self, text):
            raise NotImplementedError

    small(bundle, warmup=1, progress=Recorder())
    assert steps == [("Benchmarking fake-int4 on local", 4, "repeats"), 1, 1, 1, 1]


def test_answers_come_back_in_the_order_of_the_prompts(bundle):
    answers = answer_on_device(
        bundle, LocalDevice(agent=FAKE), [[1, 2], [7], [20]], max_new_tokens=3, stop_ids=[9]
    )
    assert answers == [[3, 4, 5], [8], [21, 22, 23]]


def test_preflight_refuses_a_damaged_bundle(bundle, tmp_path):
    (bundle / "model.onnx").write_bytes(b"cut")
    with pytest.raises(BundleError, match="has 3 bytes, the manifest says 7"):
        small(bundle)
    with pytest.raises(BundleError, match="no such folder"):
        small(tmp_path / "nowhere")


def test_preflight_refuses_a_bundle_that_memory_cannot_hold(bundle):
    class Small(LocalDevice):
        def facts(self):
            return dataclasses.replace(machine_facts(), memory_bytes=3)

    with pytest.raises(DeviceError, match=r"device local: fake-int4 has 0 MB, .* Export a smaller model"):
        benchmark(bundle, Small(agent=FAKE))


def test_no_repeats_are_refused(bundle):
    with pytest.raises(DeviceError, match=r"repeats: found 0|nothing to do: repeats is 0"):
        small(bundle, repeats=0)


def test_answers_and_scores_in_one_load(bundle):
    quality = quality_on_device(
        bundle, LocalDevice(agent=FAKE), prompts_ids=[[7]], score_ids=[[1, 2, 3], [4, 9]], max_new_tokens=2
    )
    assert quality.answers == [[8, 9]]
    assert [score.tokens for score in quality.scores] == [2, 1]
    total = 2 * quality.scores[0].nll + quality.scores[1].nll
    assert quality.perplexity == pytest.approx(math.exp(total / 3))


def test_a_run_on_chosen_cores_says_which(bundle):
    core = allowed_cores()[0]
    found = small(bundle, cores=[core])
    assert found.setting.cores == [core]
    assert result_from_json(found.to_json()) == found
    assert small(bundle).setting.cores is None
