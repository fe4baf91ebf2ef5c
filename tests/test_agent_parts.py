"""What the agent does beside the timed repeats: preflight, cold files, scores, sustained decode."""

import math
import os
import sys
from pathlib import Path

import fake_engine
import numpy as np
import pytest
from fake_engine import FakeEngine
from fake_root import phone, put
from test_agent import of, run

from runtimes import agent, sustained
from runtimes.affinity import allowed_cores
from runtimes.devices.local import LocalDevice
from runtimes.pagecache import cached_share, evict
from runtimes.plan import Plan, plan_from_dict
from runtimes.power import Source
from runtimes.preflight import refuse
from runtimes.quality import negative_log_likelihoods
from runtimes.sustained import settled, sustain
from toolkit.errors import DeviceError


def test_scores_are_the_mean_negative_log_likelihood():
    samples, _ = run(repeats=0, score_ids=((3, 4, 5), (3, 9)))
    right = math.log(math.e + 49) - 1
    wrong = math.log(math.e + 49)
    assert [(score["index"], score["tokens"]) for score in of(samples, "score")] == [(0, 2), (1, 1)]
    assert [score["nll"] for score in of(samples, "score")] == pytest.approx([right, wrong])
    assert of(samples, "prefill") == []


def test_scores_agree_with_the_engines_own_logits():
    rng = np.random.default_rng(0)
    table = rng.normal(0, 3, (50, 50)).astype(np.float32)

    class Table(FakeEngine):
        def _after(self, token):
            return table[token]

    ids = (4, 8, 15, 16, 23, 42)
    rows = Table(None).score(ids[:-1]).astype(np.float64)
    chances = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    expected = [-math.log(chances[place, token]) for place, token in enumerate(ids[1:])]
    assert negative_log_likelihoods(Table(None), ids) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((1,) * 201, r"a text of 201 tokens does not fit a context length of 200. Cut the texts"),
        ((1, 50), r"the model has no token 50. Encode the texts with the bundle's own"),
    ],
)
def test_a_text_that_cannot_be_scored_is_refused(ids, message):
    with pytest.raises(DeviceError, match=message):
        run(repeats=0, score_ids=(ids,))


def test_later_fields_are_left_out_of_the_plan_unless_asked_for():
    assert not {"cores", "energy_seconds", "sustained_minutes", "score_ids"} & set(Plan("b").as_dict())
    plan = Plan("b", cores=(1, 0), energy_seconds=0, sustained_minutes=3.5, score_ids=((1, 2),))
    assert plan_from_dict(plan.as_dict()) == plan
    assert plan_from_dict({"bundle": "b", "cores": "fast"}).cores == "fast"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"cores": []}, 'cores: found .*, accepted: "fast", core numbers, or none'),
        ({"cores": "slow"}, "cores: found 'slow'"),
        ({"cores": [-1]}, "cores: found"),
        ({"score_ids": [[1]]}, "lists of two or more token ids"),
        ({"sustained_minutes": float("inf")}, "sustained_minutes: found inf, accepted: minutes from 0"),
        ({"energy_seconds": -1}, "energy_seconds: found -1"),
    ],
)
def test_bad_later_fields_are_refused(document, message):
    with pytest.raises(DeviceError, match=message):
        plan_from_dict({"bundle": "b", **document})


def test_files_are_dropped_from_the_page_cache(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("model", "sub/data"):
        (tmp_path / name).write_bytes(os.urandom(3_000_000))
    files = [tmp_path / "model", tmp_path / "sub/data"]
    if cached_share(files) != 1.0:
        pytest.skip("this file system does not tell what is cached")
    assert evict(tmp_path) == {"dropped_by": "posix_fadvise", "cached": 0.0}
    files[0].read_bytes()
    assert cached_share(files) == pytest.approx(0.5, abs=0.01)
    assert evict(tmp_path / "nowhere") == {"dropped_by": None, "cached": None}


def test_the_cold_load_says_how_cold_it_was(tmp_path):
    (tmp_path / "model").write_bytes(os.urandom(1_000_000))
    samples, _ = run(bundle=str(tmp_path), repeats=1, prompt_tokens=3, decode_tokens=2)
    cold, warm = of(samples, "load")
    assert cold["dropped_by"] == "posix_fadvise"
    assert "cached" in cold
    assert "dropped_by" not in warm


def reading(**changes):
    return {"memory_available": 10_000, "battery": None} | changes


def test_preflight_refuses_what_is_pointless_or_harmful(tmp_path):
    (tmp_path / "model").write_bytes(b"x" * 5_000_000)
    with pytest.raises(DeviceError, match=r"the bundle has 5 MB, and 2 MB of memory are free. End other"):
        refuse(reading(memory_available=2_000_000), tmp_path)
    with pytest.raises(DeviceError, match=r"the battery is at 3 %. Charge the device first"):
        refuse(reading(memory_available=None, battery={"level": 3, "charging": False}), tmp_path)
    refuse(reading(memory_available=6_000_000, battery={"level": 3, "charging": True}), tmp_path)
    refuse(reading(memory_available=None), tmp_path)


def test_a_refusal_names_its_step(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/model").write_bytes(b"x" * 5000)
    put(tmp_path / "root", **{"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4 kB\n"})
    with pytest.raises(DeviceError, match="memory are free"):
        run(bundle=str(tmp_path / "bundle"), root=tmp_path / "root")


def test_the_agent_binds_itself_and_verifies_it():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("Linux binds processes to cores")
    core = allowed_cores()[-1]
    plan = Plan("b", cores=(core,), repeats=1, prompt_tokens=3, decode_tokens=2, energy_seconds=0)
    samples = LocalDevice(agent=[sys.executable, str(Path(fake_engine.__file__))]).run(plan)
    assert of(samples, "hello")[0]["cores"] == [core]
    assert of(samples, "load")[0]["threads"] == 1
    assert of(samples, "threads")[0]["allowed"] == [core]
    with pytest.raises(DeviceError, match=r"step start: cores: this process may not use 4000"):
        LocalDevice(agent=[sys.executable, str(Path(fake_engine.__file__))]).run(Plan("b", cores=(4000,)))


def test_each_repeat_waits_for_the_temperature_of_the_first(tmp_path):
    phone(tmp_path)
    samples, _ = run(root=tmp_path, repeats=3, prompt_tokens=3, decode_tokens=2, settle_seconds=5)
    waits = of(samples, "cool")
    assert [(wait["repeat"], wait["target"], wait["reached"]) for wait in waits] == [
        (1, 41.6, True),
        (2, 41.6, True),
    ]


def test_a_rate_has_settled_when_three_minutes_agree():
    assert not settled([10.0, 10.0])
    assert settled([20.0, 10.0, 10.1, 10.2])
    assert not settled([10.0, 10.0, 10.5])


def test_sustained_goes_on_to_its_limit(monkeypatch):
    monkeypatch.setattr(sustained, "MINUTE", 0.05)
    samples, _ = run(repeats=0, sustained_minutes=2, decode_tokens=3)
    minutes = of(samples, "sustained")
    assert [sample["minute"] for sample in minutes] == [1, 2]
    assert all(sample["tokens"] == 3 * len(sample["passes"]) for sample in minutes)
    assert all(sum(sample["passes"]) == pytest.approx(sample["seconds"]) for sample in minutes)
    assert of(samples, "sustained end")[0]["minutes"] == 2
    assert of(samples, "sustained end")[0]["settled"] is False


def test_sustained_ends_once_the_rate_is_steady(monkeypatch):
    paces = iter([[0.1], [0.2], [0.3], [0.3], [0.3], [0.3]])
    monkeypatch.setattr(sustained, "_minute", lambda *_: next(paces))
    samples = []
    plan = Plan("b", repeats=0, sustained_minutes=30, decode_tokens=3)
    sustain(plan, FakeEngine(None), [1, 2, 3, 4], lambda kind, **fields: samples.append((kind, fields)))
    assert [kind for kind, _ in samples] == ["sustained"] * 5 + ["sustained end"]
    assert samples[-1][1] == {"minutes": 5, "settled": True}


def test_energy_is_metered_at_rest_before_the_load_and_at_work_after_the_repeats(monkeypatch):
    quick = Source("a meter", "rail", 0.0, watts=lambda: 2.0, interval=0.01)
    monkeypatch.setattr(agent, "find_source", lambda root: quick)
    samples, _ = run(repeats=1, prompt_tokens=3, decode_tokens=2, energy_seconds=0.03)
    kinds = [sample["kind"] for sample in samples]
    metered = [place for place, kind in enumerate(kinds) if kind == "energy"]
    assert [samples[place]["phase"] for place in metered] == ["idle"] * 3 + ["prefill", "decode"] * 3
    assert metered[2] < kinds.index("load")
    assert metered[3] > max(place for place, kind in enumerate(kinds) if kind == "decode")
    (power,) = of(samples, "power")
    assert (power["source"], power["scope"], power["void"]) == ("a meter", "rail", None)
    without, _ = run(repeats=0, prompts_ids=((1,),), energy_seconds=0.03)
    assert not of(without, "energy")
