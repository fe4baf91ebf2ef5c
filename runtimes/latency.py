"""The timed part of a run: prefill, and single decode steps at several depths."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtimes.affinity import ThreadWatch
from runtimes.engine import Engine
from runtimes.plan import Plan
from runtimes.sensors import frequency_seconds, hottest, sensors, time_in_state
from runtimes.settle import cool
from toolkit.errors import DeviceError

if TYPE_CHECKING:
    from runtimes.agent import Samples

Emit = Callable[..., None]
TOKEN_SEED = 20260


def fitted(plan: Plan, context_length: int) -> Plan:
    """The plan with its depths capped to what the context length leaves room for."""
    # An engine takes a prompt only with room for one more token behind it, and depth 0 starts from one.
    room = context_length - plan.decode_tokens - 1
    if room < 1 or plan.prompt_tokens >= context_length:
        raise DeviceError(
            f"{plan.prompt_tokens} prompt tokens and {plan.decode_tokens} decode tokens do not fit a context "
            f"length of {context_length}",
            mend="Ask for fewer tokens",
        )
    return replace(plan, depths=tuple(dict.fromkeys(min(depth, room) for depth in plan.depths)))


def token_ids(plan: Plan, vocab_size: int) -> list[int]:
    """A fixed seeded sequence, long enough for a fitted plan: every run of a model does the same work."""
    longest = max(plan.prompt_tokens, max(plan.depths) + plan.decode_tokens + 1)
    return seeded_ids(longest, vocab_size)


def seeded_ids(count: int, vocab_size: int) -> list[int]:
    """`count` random ids, the same in every run."""
    # RandomState's stream is frozen by numpy's compatibility policy; Generator's is not.
    ids: list[int] = np.random.RandomState(TOKEN_SEED).randint(0, vocab_size, count).tolist()
    return ids


def latency(plan: Plan, engine: Engine, ids: list[int], samples: "Samples", root: Path = Path("/")) -> None:
    """Warm up, then repeat; between repeats wait for the temperature at which the first one started."""
    watch, started_at = ThreadWatch(root), None
    for number in range(-plan.warmup, plan.repeats):
        warmup = number < 0
        if number == 0:
            watch = ThreadWatch(root)
            start = sensors(root)
            started_at = hottest(start)
            samples.emit("sensors", when="start", **start)
        elif number > 0 and plan.settle_seconds and started_at is not None:
            samples.begin(f"cool down before repeat {number + 1}")
            samples.emit("cool", repeat=number, **cool(started_at, plan.settle_seconds, root=root))
        samples.begin("warm-up" if warmup else f"repeat {number + 1} of {plan.repeats}")
        before = time_in_state(root)
        _prefill(plan, engine, ids, samples.emit, {"repeat": number, "warmup": warmup})
        watch.look()
        for depth in plan.depths:
            fields = {"repeat": number, "warmup": warmup, "depth": depth}
            _decode(plan, engine, ids, samples.emit, fields)
            watch.look()
        spent = frequency_seconds(before, time_in_state(root))
        reading = sensors(root)
        samples.emit(
            "sensors", when="during", repeat=number, warmup=warmup, frequency_seconds=spent, **reading
        )
    if (worked := watch.report()) is not None:
        samples.emit("threads", **worked)


def _prefill(plan: Plan, engine: Engine, ids: list[int], emit: Emit, fields: dict[str, Any]) -> None:
    prompt = ids[: plan.prompt_tokens]
    started = time.perf_counter()
    logits = engine.prefill(prompt)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    int(np.argmax(logits))
    sampling = time.perf_counter() - started
    emit(
        "prefill",
        **fields,
        tokens=len(prompt),
        seconds=seconds,
        sampling_seconds=sampling,
        ttft=seconds + sampling,
    )


def _decode(plan: Plan, engine: Engine, ids: list[int], emit: Emit, fields: dict[str, Any]) -> None:
    """Time single decode steps; sampling the next token from the logits is timed apart."""
    cached = max(1, fields["depth"])
    engine.prefill(ids[:cached])
    seconds: list[float] = []
    sampling: list[float] = []
    for token in ids[cached : cached + plan.decode_tokens]:
        started = time.perf_counter()
        logits = engine.decode(token)
        decoded = time.perf_counter()
        int(np.argmax(logits))
        sampling.append(time.perf_counter() - decoded)
        seconds.append(decoded - started)
    emit("decode", **fields, tokens=len(seconds), seconds=seconds, sampling_seconds=sampling)
