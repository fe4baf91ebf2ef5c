"""Judgement of what boards and phones tell: firmware, thermal status, affinity, energy, batteries."""

import json
from dataclasses import replace

import pytest
from fake_bundle import fake_bundle
from made_up import result, samples

from benchmarks.environment import frequency_share
from benchmarks.protocol import quality_on_device
from benchmarks.quality import Quality, Score
from benchmarks.results import derive, result_from_json
from benchmarks.validity import judge
from runtimes.devices import Device
from runtimes.facts import machine_facts
from toolkit.errors import DeviceError


def with_readings(change):
    """A quiet run whose sensors samples are changed by `change(number, when)`."""
    found, number = [], 0
    for sample in samples():
        if sample["kind"] == "sensors":
            sample = sample | change(number, sample["when"])
            number += 1
        found.append(sample)
    return found


def test_old_results_and_other_agents_lack_what_came_later():
    document = json.loads(result().to_json())
    for name in ("notes",):
        del document["validity"][name]
    for name in ("frequency_share", "power_source"):
        del document["environment"][name]
    del document["setting"]["cores"]
    read = result_from_json(json.dumps(document))
    assert read.validity.notes == []
    assert read.setting.cores is None
    assert judge(read.samples, 4).valid


def test_sticky_bits_of_before_the_run_are_only_noted():
    earlier = judge(with_readings(lambda *_: {"throttle_flags": 0x50000}), 4)
    assert earlier.valid
    assert earlier.notes == [
        "before the run, since its start, the firmware had seen under-voltage, throttled"
    ]


def test_sticky_bits_that_appear_during_the_run_make_it_invalid():
    def change(number, when):
        return {"throttle_flags": 0x10000 if number < 4 else 0x50000}

    assert judge(with_readings(change), 4).reasons == ["between two readings the firmware saw throttled"]
    now = judge(with_readings(lambda number, _: {"throttle_flags": 0x40004 * (number > 3)}), 4)
    assert now.reasons == ["the firmware reports throttled"]


@pytest.mark.parametrize(
    ("status", "reasons"),
    [(0, []), (1, []), (2, ["Android's thermal status was 2 (moderate)"]), (None, [])],
)
def test_android_thermal_status(status, reasons):
    found = with_readings(lambda _, when: {"thermal_status": status if when == "during" else 0})
    assert judge(found, 4).reasons == reasons


def test_the_mean_clock_is_that_of_the_cluster_that_worked():
    def change(number, when):
        slow = {"1200": 1.0, "2400": 0.2} if number == 5 else {"2400": 1.1, "600": 0.1}
        return {"frequency_seconds": {"policy0": {"600": 1.2}, "policy4": slow}} if when == "during" else {}

    found = with_readings(change)
    assert judge(found, 4).reasons == ["the mean clock of a repeat fell from 2250 to 1400 MHz"]
    share = frequency_share(found)
    assert share["policy0"] == {"600": 1.0}
    assert list(share["policy4"]) == ["600", "1200", "2400"]
    assert sum(share["policy4"].values()) == pytest.approx(1.0, abs=1e-3)
    assert share["policy4"]["1200"] == pytest.approx(1.0 / 6.0, abs=1e-3)
    assert frequency_share(samples()) is None


def test_a_core_that_goes_offline_makes_the_run_invalid():
    found = with_readings(lambda number, _: {"online_cores": [0, 1, 2, 3] if number < 5 else [0, 1, 2]})
    assert judge(found, 4).reasons == ["core 3 went offline"]


def threads(**changes):
    usual = {
        "kind": "threads", "threads": 9, "working": 4, "seconds": 10.0, "busy": [9.0, 9.0, 9.0, 9.0, 0.1],
        "allowed": [4, 5, 6, 7], "ran_on": [4, 5, 6, 7],
    }  # fmt: skip
    return usual | changes


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (threads(), None),
        (threads(allowed=[0, 4, 5, 6, 7]), "threads may run on core 0, outside of those that were set"),
        (threads(ran_on=[1, 2, 4]), "threads ran on core 1, 2, outside of those that were set"),
        (threads(busy=[9.0] * 6), "5.4 cores were busy with the 4 threads asked for"),
    ],
)
def test_affinity_and_threads_are_verified_not_assumed(sample, reason):
    found = [s | {"cores": [4, 5, 6, 7]} if s["kind"] == "hello" else s for s in samples()]
    assert judge([*found, sample], 4).reasons == ([reason] if reason else [])


def test_threads_that_the_agent_chose_are_verified_too():
    found = [s | {"threads": 2} if s["kind"] == "load" else s for s in samples()]
    judged = judge([*found, threads()], None)
    assert judged.reasons == ["3.6 cores were busy with the 2 threads asked for"]
    few = judge([*samples(), threads(working=1, busy=[9.0])], 4)
    assert few.valid
    assert few.notes == ["only 1 of 4 threads had work"]


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        (
            {"kind": "power", "source": "battery BAT0", "scope": "whole device", "void": "it is charging"},
            "no energy from battery BAT0: it is charging",
        ),
        (
            {"kind": "cool", "repeat": 2, "reached": False, "celsius": 58.0, "target": 50.0, "seconds": 30.0},
            "repeat 3 began 8 °C warmer than the first one",
        ),
        (
            {"kind": "sustained end", "minutes": 20, "settled": False},
            "the sustained rate had not settled after 20 minutes",
        ),
        (
            {"kind": "load", "state": "cold", "seconds": 1.0, "dropped_by": None, "cached": 0.4},
            "the cold load found 40% of the bundle in the page cache",
        ),
    ],
)
def test_what_is_noted(extra, note):
    judged = judge([*samples(), extra], 4)
    assert judged.valid
    assert judged.notes == [note]


def test_governor_and_battery_are_noted():
    found = with_readings(
        lambda *_: {"governors": ["schedutil"] * 4, "battery": {"level": 15, "charging": False}}
    )
    assert judge(found, 4).notes == [
        "governor schedutil: the clock follows the load",
        "battery at 15 %: the device may save power",
    ]
    plugged = with_readings(lambda *_: {"battery": {"level": 15, "charging": True}})
    assert judge(plugged, 4).notes == ["on external power: charging warms a battery"]


def test_others_beside_the_sustained_decode_are_noted():
    minutes = [
        {"kind": "sustained", "tokens": 60, "seconds": 60.0, "other_cores": busy} for busy in (0.1, 1.5, None)
    ]
    judged = judge([*samples(), *minutes], 4)
    assert judged.valid
    assert judged.notes == ["during the sustained decode other processes kept up to 1.50 cores busy"]
    assert judge([*samples(), minutes[0]], 4).notes == []


def test_the_sustained_rate_is_that_of_the_last_minutes():
    rates = (30.0, 20.0, 10.0, 10.1, 10.2)
    found = [{"kind": "sustained", "tokens": rate * 60, "seconds": 60.0} for rate in rates]
    assert derive(found)["sustained_rate"].values == pytest.approx((10.0, 10.1, 10.2))


def test_an_emulated_device_shows_no_power():
    found = [*samples(), {
        "kind": "energy", "phase": "decode", "tokens": 4, "joules": 2.0, "seconds": 1.0, "void": None
    }]  # fmt: skip
    judged = replace(result(), samples=found)
    assert judged.shown["energy_decode"].median == 0.5
    facts = judged.environment.facts | {"emulated": True}
    emulated = replace(judged, environment=replace(judged.environment, facts=facts))
    assert "energy_decode" not in emulated.shown


def test_perplexity_weighs_every_token():
    quality = Quality(scores=[Score(1, 4.0), Score(3, 0.0)])
    assert quality.perplexity == pytest.approx(2.718281828)
    assert Quality().perplexity is None


class Forgetful(Device):
    name = "forgetful"

    def facts(self):
        return machine_facts()

    def place(self, bundle, progress=None):
        return str(bundle)

    def run(self, plan, on_sample=None):
        assert plan.score_ids == ((1, 2), (3, 4))
        return [{"kind": "score", "index": 0, "tokens": 1, "nll": 0.5}]


def test_a_score_that_is_missing_is_an_error(tmp_path):
    bundle = fake_bundle(tmp_path)
    with pytest.raises(DeviceError, match="device forgetful, fake-int4: no score of text 1"):
        quality_on_device(bundle, Forgetful(), score_ids=[[1, 2], [3, 4]])
