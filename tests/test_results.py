import json
from dataclasses import replace

import pytest
from made_up import memory, reading, result, samples

from benchmarks.results import derive, read_result, result_from_json, write_result
from benchmarks.validity import judge
from toolkit.errors import EdgePLMError


def test_a_result_survives_its_file(tmp_path):
    before = result()
    write_result(before, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == before


def test_the_file_holds_raw_samples_and_statistics_for_readers():
    document = json.loads(result().to_json())
    assert document["schema"] == "edgeplm.benchmark"
    assert document["schema_version"] == 1
    assert len(document["samples"]) == len(samples())
    assert document["statistics"]["ttft"]["unit"] == "s"
    assert document["environment"]["bundle"]["manifest_sha256"] == "ab12" * 16
    assert document["validity"] == {"valid": True, "reasons": [], "notes": []}


def test_statistics_are_derived_from_the_samples_without_the_warm_up():
    found = derive(samples())
    assert set(found) == {
        "load_cold", "load_warm", "ttft", "prefill_rate", "decode_rate_at_0", "decode_rate_at_256",
        "decode_step_at_0", "decode_step_at_256", "peak_rss", "pss",
    }  # fmt: skip
    assert len(found["ttft"].values) == 5
    assert max(found["ttft"].values) < 0.4
    assert len(found["decode_step_at_0"].values) == 5 * 64
    rate = found["prefill_rate"]
    assert rate.median == pytest.approx(128 / 0.31, rel=0.03)
    assert rate.low <= rate.median <= rate.high
    assert rate.p10 <= rate.median <= rate.p90
    assert found["peak_rss"].values == (231_000_000.0,)


def test_tampered_statistics_are_not_believed():
    document = json.loads(result().to_json())
    document["statistics"]["ttft"]["median"] = 0.0001
    assert result_from_json(json.dumps(document)).statistics["ttft"].median > 0.3


def without(document, *path):
    for name in path[:-1]:
        document = document[name]
    del document[path[-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema="other"), 'its field schema is not "edgeplm.benchmark"'),
        (lambda d: d.update(schema_version=2), "schema_version is 2, this EdgePLM reads 1"),
        (lambda d: without(d, "validity"), "field validity is missing"),
        (lambda d: without(d, "environment", "bundle", "bytes"), "field environment.bundle.bytes is missing"),
        (lambda d: d["setting"].update(repeats="five"), "field setting.repeats is 'five', expected int"),
        (lambda d: d["setting"].update(repeats=True), "field setting.repeats is True, expected int"),
        (lambda d: d["environment"].update(temperature_after="hot"), "expected a number"),
        (lambda d: d["setting"].update(depths=[0, "x"]), r"field setting.depths\[1\] is 'x'"),
        (lambda d: d.update(samples=[1]), r"field samples\[0\] is 1, expected dict"),
        (lambda d: d.update(samples=[{"kind": "prefill"}]), "samples are damaged .KeyError"),
        (lambda d: d.update(samples=[{"t": 1}]), "samples are damaged .KeyError: 'kind'"),
    ],
)
def test_a_file_of_another_kind_or_version_is_refused(change, message):
    document = json.loads(result().to_json())
    change(document)
    with pytest.raises(EdgePLMError, match=message) as caught:
        result_from_json(json.dumps(document), where="result.json")
    assert str(caught.value).startswith("result.json: ")
    assert caught.value.mend


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_result_at_all_is_refused(text):
    with pytest.raises(EdgePLMError, match=r"is not JSON|is no benchmark result"):
        result_from_json(text)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(EdgePLMError, match=r"nowhere\.json: cannot be read"):
        read_result(tmp_path / "nowhere.json")
    (tmp_path / "latin.json").write_bytes(b'{"x": "\xe9"}')
    with pytest.raises(EdgePLMError, match=r"latin\.json: is not UTF-8 \(byte 7\)"):
        read_result(tmp_path / "latin.json")


def test_a_quiet_cool_run_is_valid():
    validity = judge(samples(), 4)
    assert validity.reasons == []
    assert validity.valid


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"temperatures": {"cpu": {"celsius": 81.0, "limit": 80.0}}}, "too hot: cpu at 81 °C, limit 80 °C"),
        ({"temperatures": {"cpu": {"celsius": 80.5, "limit": None}}}, "too hot: cpu at 80 °C, limit 80 °C"),
        ({"throttle_flags": 0b101}, "the firmware reports under-voltage, throttled"),
        ({"frequency_mhz": [1500.0] * 4}, "the clock fell from 2400 to 1500 MHz"),
        (
            {"allowed_mhz": [1200.0] * 4},
            "the highest clock that the kernel allows fell from 2400 to 1200 MHz",
        ),
        ({"memory_available": 90_000_000}, "starved of memory: 1.1% of it was available"),
        ({"major_faults": 900}, "starved of memory: 888 pages were read from storage again"),
        (
            {"processor": {"clock": 17.0, "busy": 80.0, "steal": 0.0, "own": 60.0}},
            "other processes kept 1.33 cores busy (limit 0.25)",
        ),
        (
            {"processor": {"clock": 17.0, "busy": 61.0, "steal": 3.0, "own": 60.0}},
            "the hypervisor took 0.20 cores away (limit 0.05)",
        ),
    ],
)
def test_what_happened_during_the_run_makes_it_invalid(change, reason):
    validity = judge(samples(during=change), 4)
    assert validity.reasons == [reason]
    assert not validity.valid


def test_throttle_events_count_from_the_start():
    found = samples(during={"throttle_events": 9})
    for sample in found:
        if sample["kind"] == "sensors" and sample["when"] == "start":
            sample["throttle_events"] = 4
    assert judge(found, 4).reasons == ["the processor throttled 5 times"]


def test_a_machine_without_counters_is_judged_by_its_load_average():
    found = [
        s | {"processor": None, "load_average": [1.5, 1, 1]} if s["kind"] == "sensors" else s
        for s in samples()
    ]
    assert judge(found, 4).reasons == ["load average 1.50 before the run (limit 0.50)"]


def test_a_machine_that_tells_nothing_can_still_be_valid():
    silent = dict.fromkeys(
        key for key in reading("x", 0.0) if key not in ("kind", "t", "when", "repeat", "warmup")
    )
    found = [s | silent if s["kind"] == "sensors" else s for s in samples()]
    assert judge(found, 4).valid


def test_uneven_slowing_or_few_repeats_are_invalid():
    uneven = judge(samples(slow=(1.0, 1.5, 1.0, 1.5, 1.2)), 4).reasons
    assert any(reason.startswith("prefill: spread of ") for reason in uneven)
    slowing = judge(samples(slow=(1.0, 1.0, 1.08, 1.14, 1.15)), 4).reasons
    assert next(r for r in slowing if "slowed down" in r).startswith("prefill: slowed down by 1")
    assert "prefill: 2 repeats; a spread needs at least 3" in judge(samples(repeats=2), 4).reasons


def test_swapping_waiting_and_too_many_threads_are_invalid():
    swapped = [
        memory("after run", swapped=50_000_000) if s.get("when") == "after run" else s for s in samples()
    ]
    assert judge(swapped, 4).reasons == ["starved of memory: 50 MB of the process were swapped out"]
    waited = [*samples(), {"kind": "settle", "seconds": 30.0, "reached": False, "waiting_for": "a hot cpu"}]
    assert judge(waited, 4).reasons == ["not at rest after 30 s of waiting: a hot cpu"]
    assert judge(samples(), 8).reasons == ["8 threads on the 4 cores that the process may use"]


def test_validity_stands_beside_the_figures():
    judged = replace(result(), validity=judge(samples(repeats=1), 4))
    assert not result_from_json(judged.to_json()).validity.valid
