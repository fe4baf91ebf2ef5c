"""Counting instructions: the plan, the passes over an engine, the kernel's counter, the statistics."""

import errno
import io
import json
import platform
import re
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from benchmarks.results import derive
from runtimes.agent import Samples, execute_counts
from runtimes.instructions import (
    PASSES,
    Counter,
    _refused,
    count,
    counting_program,
    perf_counter,
)
from runtimes.plan import Plan, plan_from_dict
from toolkit.errors import DeviceError

SOFTWARE_TASK_CLOCK = (1, 1)  # PERF_TYPE_SOFTWARE, nanoseconds on the processor: in every kernel


def counting_plan(**fields):
    return Plan(
        **({"bundle": "b", "threads": 1, "repeats": 0, "count_instructions": True, "depths": (0, 8)} | fields)
    )


def ticking(step=1000):
    """A counter that goes up by `step` each time it is read."""
    numbers = iter(range(0, 10**9, step))
    return Counter("fake", lambda: next(numbers))


def test_a_plan_that_counts_says_so_and_any_other_is_as_it_was():
    plan = counting_plan()
    assert plan_from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    assert "count_instructions" not in Plan("b").as_dict()


@pytest.mark.parametrize(
    "fields", [{"threads": None}, {"threads": 2}, {"repeats": 1}, {"prompts_ids": ((1,),)}]
)
def test_nothing_runs_beside_a_count(fields):
    with pytest.raises(DeviceError, match="one thread and does nothing else"):
        counting_plan(**fields)


def test_prefill_and_decode_are_counted_and_the_first_pass_is_not():
    steps = []
    found = count(
        counting_plan(prompt_tokens=5, decode_tokens=3), FakeEngine(Path("b")), ticking(), steps.append
    )
    assert [(each["phase"], each.get("depth"), each["tokens"]) for each in found] == [
        ("prefill", None, 5),
        ("decode", 0, 3),
        ("decode", 8, 3),
    ] * PASSES
    assert {each["repeat"] for each in found} == set(range(PASSES))
    assert all(each["count"] == 1000 and each["source"] == "fake" for each in found)
    assert len(steps) == PASSES + 1


def test_the_agent_counts_and_then_tells_of_the_machine(monkeypatch):
    monkeypatch.setattr("runtimes.agent.open_counter", ticking)
    stream = io.StringIO()
    execute_counts(counting_plan(), Samples(stream), lambda folder, threads: FakeEngine(Path("b")))
    kinds = [json.loads(line)["kind"] for line in stream.getvalue().splitlines()]
    assert kinds[: 2 + PASSES] == ["step"] * (2 + PASSES)
    assert kinds[2 + PASSES :] == ["hello", *["instructions"] * 3 * PASSES, "done"]


def test_counts_become_figures_for_a_token():
    samples = [
        {"kind": "instructions", "phase": "prefill", "tokens": 4, "count": 4000},
        {"kind": "instructions", "phase": "decode", "depth": 8, "tokens": 2, "count": 3000},
    ]
    found = derive(samples)
    assert {name: (figure.median, figure.unit) for name, figure in found.items()} == {
        "instructions_per_prefill_token": (1000.0, "instructions"),
        "instructions_per_decode_token_at_8": (1500.0, "instructions"),
    }


@pytest.mark.skipif(platform.system() != "Linux", reason="perf_event_open is Linux's")
def test_the_kernel_counts_this_thread():
    counter = perf_counter(*SOFTWARE_TASK_CLOCK)
    first = counter.read()
    sum(number * number for number in range(200_000))
    assert counter.read() - first > 1_000_000  # more than a millisecond of work


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, r"perf_event_paranoid is -?\d+, and at most 2 allows it\. .*security\.perf_harden 0"),
        (errno.ENOENT, "shows no counter of instructions.*Leave out --count-instructions"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_a_refusal_says_why(number, said):
    assert re.search(said, str(_refused(number)))


def test_an_emulated_device_names_its_counter(tmp_path):
    mark = tmp_path / "edgeplm-emulated"
    assert counting_program(mark) is None
    mark.write_text("emulated=qemu\ncount-instructions=/opt/count\n")
    assert counting_program(mark) == "/opt/count"
