"""The rate that is left once a machine is warm: decode without a pause, until it settles."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtimes.sensors import frequency_seconds, hottest, other_work, sensors

if TYPE_CHECKING:
    from runtimes.engine import Engine
    from runtimes.plan import Plan

# Settled: so many minutes in a row whose rates lie within so much of their mean.
SETTLED_MINUTES = 3
SETTLED_SPREAD = 0.03
MINUTE = 60.0


def sustain(
    plan: "Plan",
    engine: "Engine",
    ids: list[int],
    emit: Callable[..., None],
    *,
    read: Callable[[], dict[str, Any]] = sensors,
) -> None:
    """Decode from an empty context over and over, for `plan.sustained_minutes` at most.

    Every minute is a sample `sustained` with the tokens decoded, the seconds that this took, the seconds of
    each pass of `plan.decode_tokens` steps, the cores that other processes kept busy, and how hot and fast
    the processor was at its end. The sensors are read between minutes. At last a sample `sustained end` says
    whether the rate settled.
    """
    rates: list[float] = []
    before = read()
    limit = max(1, round(plan.sustained_minutes))
    while len(rates) < limit and not settled(rates):
        passes = _minute(engine, ids[: plan.decode_tokens + 1], MINUTE)
        after = read()
        seconds, tokens = sum(passes), len(passes) * plan.decode_tokens
        work = other_work(before, after)
        rates.append(tokens / seconds)
        emit(
            "sustained",
            minute=len(rates),
            tokens=tokens,
            seconds=seconds,
            passes=passes,
            other_cores=None if work is None else round(work[0], 3),
            celsius=hottest(after),
            thermal_status=after["thermal_status"],
            throttle_flags=after["throttle_flags"],
            throttle_events=after["throttle_events"],
            frequency_mhz=after["frequency_mhz"],
            frequency_seconds=frequency_seconds(before["time_in_state"], after["time_in_state"]),
            battery=after["battery"],
        )
        before = after
    emit("sustained end", minutes=len(rates), settled=settled(rates))


def settled(rates: list[float]) -> bool:
    """Whether the last minutes' rates lie within SETTLED_SPREAD of their mean."""
    last = rates[-SETTLED_MINUTES:]
    return len(last) == SETTLED_MINUTES and max(last) - min(last) <= SETTLED_SPREAD * sum(last) / len(last)


def _minute(engine: "Engine", ids: list[int], minute: float) -> list[float]:
    """Seconds of each pass over `ids` until a minute is over; the first token opens the context, untimed."""
    passes: list[float] = []
    end = time.perf_counter() + minute
    while not passes or time.perf_counter() < end:
        engine.prefill(ids[:1])
        started = time.perf_counter()
        for token in ids[1:]:
            engine.decode(token)
        passes.append(time.perf_counter() - started)
    return passes
