import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_engine import VOCAB, FakeEngine
from fake_root import put

from runtimes.agent import Samples, execute
from runtimes.facts import machine_facts
from runtimes.plan import Plan, plan_from_dict
from runtimes.sensors import hottest, memory, other_work, sensors, too_hot
from runtimes.settle import settle
from toolkit.errors import DeviceError


def run(root=Path("/"), bundle="b", **fields):
    engines = []

    def open_engine(folder, threads):
        engines.append(FakeEngine(folder, threads))
        return engines[-1]

    stream = io.StringIO()
    plan = Plan(bundle=bundle, **({"energy_seconds": 0} | fields))
    execute(plan, Samples(stream), open_engine, root)
    return [json.loads(line) for line in stream.getvalue().splitlines()], engines


def of(samples, kind):
    return [sample for sample in samples if sample["kind"] == kind]


def test_a_run_writes_every_kind_of_sample_in_order():
    samples, _ = run(prompt_tokens=12, decode_tokens=5, repeats=2, depths=(0, 20), prompts_ids=((3, 4),))
    kinds = [sample["kind"] for sample in samples]
    assert kinds[0] == "hello"
    assert kinds[-1] == "done"
    assert set(kinds) == {
        "hello", "step", "sensors", "memory", "load", "prefill", "decode", "threads", "answer", "done",
    }  # fmt: skip
    times = [sample["t"] for sample in samples]
    assert times == sorted(times)
    assert [m["when"] for m in of(samples, "memory")] == ["before load", "after load", "after run"]
    assert [s["when"] for s in of(samples, "sensors")] == [
        "before", "during", "start", "during", "during", "after",
    ]  # fmt: skip
    assert [(load["state"], load["runtime_version"]) for load in of(samples, "load")] == [
        ("cold", "7.0"),
        ("warm", "7.0"),
    ]


def test_warm_up_is_marked_and_every_token_is_timed():
    samples, _ = run(prompt_tokens=12, decode_tokens=5, repeats=2, warmup=1, depths=(0, 20))
    prefills, decodes = of(samples, "prefill"), of(samples, "decode")
    assert [p["warmup"] for p in prefills] == [True, False, False]
    assert all(p["tokens"] == 12 and p["ttft"] == p["seconds"] + p["sampling_seconds"] for p in prefills)
    assert [(d["repeat"], d["depth"]) for d in decodes] == [
        (-1, 0),
        (-1, 20),
        (0, 0),
        (0, 20),
        (1, 0),
        (1, 20),
    ]
    assert all(len(d["seconds"]) == len(d["sampling_seconds"]) == 5 for d in decodes)


def test_tokens_are_the_same_every_time_and_valid():
    _, (first, again) = run(prompt_tokens=12, decode_tokens=5, repeats=1, depths=(20,))
    _, (second, _) = run(prompt_tokens=12, decode_tokens=5, repeats=1, depths=(20,))
    assert first.seen == second.seen
    assert len(set(first.seen[0])) > 5
    assert all(0 <= token < VOCAB for ids in first.seen for token in ids)
    assert [len(ids) for ids in first.seen] == [12, 25, 12, 25]
    assert first.closed
    assert again.closed
    assert again.seen == []


def test_depths_are_capped_by_the_context_length():
    samples, (engine, _) = run(prompt_tokens=12, decode_tokens=30, repeats=1, warmup=0, depths=(0, 256, 4000))
    assert [d["depth"] for d in of(samples, "decode")] == [0, 200 - 30 - 1]
    assert max(len(ids) for ids in engine.seen) == 199


def test_a_plan_that_does_not_fit_the_context_is_refused():
    with pytest.raises(DeviceError, match=r"200 prompt tokens and 5 decode tokens do not fit .* 200"):
        run(prompt_tokens=200, decode_tokens=5, repeats=1)
    with pytest.raises(DeviceError, match=r"Ask for fewer tokens"):
        run(prompt_tokens=5, decode_tokens=199, repeats=1)


def test_answers_alone_need_neither_latency_nor_a_second_load():
    samples, engines = run(repeats=0, prompts_ids=((1, 2), (7,)), max_new_tokens=4, stop_ids=(9,))
    assert [(a["index"], a["ids"]) for a in of(samples, "answer")] == [(0, [3, 4, 5, 6]), (1, [8])]
    assert len(engines) == 1
    assert of(samples, "prefill") == []


def test_the_agent_imports_neither_torch_nor_the_rest_of_the_toolkit():
    code = (
        "import sys, runtimes.agent; heavy = {'torch', 'transformers', 'yaml', 'jinja2'} & set(sys.modules); "
        "ours = {m for m in sys.modules if m.split('.')[0] in ('toolkit', 'exporters', 'benchmarks')}; "
        "print(sorted(heavy), sorted(ours))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[] ['toolkit', 'toolkit.errors']"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "plan of the run: not a JSON object"),
        ({}, "the field bundle is missing"),
        ({"bundle": "b", "thread": 2}, "unknown field thread; accepted: adapter, bundle, "),
        ({"bundle": ""}, "bundle: found ''"),
        ({"bundle": "b", "threads": 0}, "threads: found 0, accepted: a whole number from 1, or none"),
        ({"bundle": "b", "repeats": True}, "repeats: found True"),
        ({"bundle": "b", "depths": []}, r"depths: found \(\)"),
        ({"bundle": "b", "prompts_ids": [[]]}, "lists of one or more token ids"),
        ({"bundle": "b", "repeats": 0}, "nothing to do"),
        ({"bundle": "b", "prompt_tokens": -1, "settle_seconds": "x"}, "prompt_tokens: .*; settle_seconds: "),
    ],
)
def test_a_bad_plan_says_which_field_and_what_is_accepted(document, message):
    with pytest.raises(DeviceError, match=message):
        plan_from_dict(document)


def test_a_plan_survives_json():
    plan = Plan(bundle="b", threads=2, prompts_ids=((1, 2),), stop_ids=(3,))
    assert plan_from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@pytest.fixture
def board(tmp_path):
    """The /proc and /sys of a small Arm board."""
    cpu, zone = "sys/devices/system/cpu", "sys/class/thermal/thermal_zone0"
    files = {
        "proc/cpuinfo": "".join(
            f"processor : {n}\nCPU implementer : 0x41\nCPU part : 0xd0b\n" for n in (0, 1)
        ),
        "proc/device-tree/model": "Small Board 5\0",
        "proc/meminfo": "MemTotal: 4000 kB\nMemAvailable: 3000 kB\nSwapTotal: 100 kB\nSwapFree: 90 kB\n",
        "proc/self/status": "Name: x\nVmHWM:\t 200 kB\nVmRSS:\t 150 kB\nVmSwap:\t 0 kB\n",
        "proc/self/smaps_rollup": "00-ff ---p [rollup]\nRss: 150 kB\nPss: 120 kB\n",
        "proc/self/stat": "7 (a (b) c) R 1 7 7 0 -1 0 100 0 42 0 5 5",
        "proc/stat": "cpu 100 0 100 800 0 0 0 10 0 0\ncpu0 1\n",
        "etc/os-release": 'NAME=x\nPRETTY_NAME="Board OS 1"\n',
        f"{zone}/type": "cpu-thermal\n",
        f"{zone}/temp": "61500\n",
        f"{zone}/trip_point_0_type": "critical\n",
        f"{zone}/trip_point_0_temp": "110000\n",
        f"{zone}/trip_point_1_type": "passive\n",
        f"{zone}/trip_point_1_temp": "80000\n",
        "sys/devices/platform/soc@1/soc@1:firmware/get_throttled": "50005\n",
    }
    for core in (0, 1):
        files |= {
            f"{cpu}/cpu{core}/topology/physical_package_id": "0",
            f"{cpu}/cpu{core}/topology/core_id": str(core),
            f"{cpu}/cpu{core}/cpufreq/scaling_governor": "ondemand\n",
            f"{cpu}/cpu{core}/cpufreq/scaling_cur_freq": "1500000\n",
            f"{cpu}/cpu{core}/cpufreq/scaling_max_freq": "2400000\n",
            f"{cpu}/cpu{core}/cpufreq/cpuinfo_max_freq": "2400000\n",
        }
    put(tmp_path, **files)
    return tmp_path


def test_facts_of_an_arm_board(board):
    facts = machine_facts(board)
    assert (facts.cpu, facts.board, facts.os) == ("Cortex-A76", "Small Board 5", "Board OS 1")
    assert (facts.cores_physical, facts.max_mhz, facts.memory_bytes) == (2, 2400.0, 4000 * 1024)


def test_sensors_of_an_arm_board(board):
    reading = sensors(board)
    assert reading["temperatures"] == {"cpu-thermal": {"celsius": 61.5, "limit": 80.0}}
    assert hottest(reading) == 61.5
    assert reading["governors"] == ["ondemand", "ondemand"]
    assert reading["frequency_mhz"] == [1500.0, 1500.0]
    assert reading["throttle_flags"] == 0x50005
    assert reading["major_faults"] == 42
    assert reading["swap_used"] == 10 * 1024
    assert memory(board) == {"peak_rss": 204800, "rss": 153600, "pss": 122880, "swapped": 0}


def test_a_machine_without_sensors_gives_none(tmp_path):
    reading = sensors(tmp_path)
    told = {name for name, value in reading.items() if value is not None}
    assert told <= {"load_average"}
    assert hottest(reading) is None
    assert too_hot(reading, 80) is None
    assert memory(tmp_path) == dict.fromkeys(("peak_rss", "rss", "pss", "swapped"))
    facts = machine_facts(tmp_path)
    assert facts.max_mhz is None
    assert facts.cores_physical is None


def test_hwmon_serves_where_there_are_no_thermal_zones(tmp_path):
    chip = "sys/class/hwmon/hwmon0"
    put(
        tmp_path,
        **{f"{chip}/name": "k10temp\n", f"{chip}/temp1_label": "Tctl", f"{chip}/temp1_input": "91000"},
    )
    reading = sensors(tmp_path)
    assert reading["temperatures"] == {"k10temp Tctl": {"celsius": 91.0, "limit": None}}
    assert too_hot(reading, 80) == "k10temp Tctl at 91 °C, limit 80 °C"


def at(clock, busy, own=0.0, steal=0.0, celsius=40.0):
    return {
        "processor": {"clock": clock, "busy": busy, "own": own, "steal": steal},
        "temperatures": {"cpu": {"celsius": celsius, "limit": 80.0}},
    }


def test_other_work_is_what_this_process_did_not_do():
    assert other_work(at(0, 0), at(10, 35, own=20, steal=1)) == pytest.approx((1.5, 0.1))
    assert other_work(at(0, 0), at(0.2, 1)) is None
    assert other_work({"processor": None}, at(10, 35)) is None


def settled(readings, timeout=5.0):
    clock = iter(range(100))
    left = iter(readings)
    return settle(timeout, 2, read=lambda: next(left), pause=lambda _: None, clock=lambda: float(next(clock)))


def test_settling_waits_for_the_condition_and_not_for_a_number_of_seconds():
    quiet = settled([at(0, 0), at(1, 0.1)])
    assert quiet["reached"]
    first_busy_then_hot_then_calm = [at(0, 0), at(1, 1), at(2, 1, celsius=85.0), at(3, 1, celsius=70.0)]
    assert settled(first_busy_then_hot_then_calm, timeout=50.0)["reached"]


def test_settling_gives_up_and_says_what_it_waited_for():
    outcome = settled([at(n, 2 * n) for n in range(50)], timeout=5.0)
    assert not outcome["reached"]
    assert outcome["waiting_for"] == "other processes, which keep 2.00 cores busy"
