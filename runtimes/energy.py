"""Energy of a token: power metered while the model does one thing only. Standard library only.

It is apart from the timed repeats: a slow meter (a phone's fuel gauge, a program such as vcgencmd) needs
windows of seconds, and must not run beside work that is timed.
"""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runtimes.power import Source, counted, joules_between

if TYPE_CHECKING:
    from runtimes.engine import Engine
    from runtimes.plan import Plan

Emit = Callable[..., None]
# The least that has a spread.
WINDOWS = 3


def announce(source: Source | None, emit: Emit) -> None:
    """Write which source tells the power, if any does."""
    if source is None:
        emit("power", source=None)
    else:
        emit("power", source=source.name, scope=source.scope, void=source.void())


def idle_energy(plan: "Plan", source: Source, emit: Emit) -> None:
    """Meter the machine at rest, before anything is loaded."""
    seconds = max(plan.energy_seconds, source.least_seconds)
    for window in range(WINDOWS):
        _window(source, emit, {"phase": "idle", "window": window}, lambda: _rest(seconds))


def work_energy(plan: "Plan", engine: "Engine", ids: list[int], source: Source, emit: Emit) -> None:
    """Meter prefill and decode in turn, each for the length of a window."""
    seconds = max(plan.energy_seconds, source.least_seconds)
    for window in range(WINDOWS):
        _window(
            source,
            emit,
            {"phase": "prefill", "window": window},
            lambda: _prefill(engine, ids[: plan.prompt_tokens], seconds),
        )
        _window(
            source,
            emit,
            {"phase": "decode", "window": window},
            lambda: _decode(engine, ids[: plan.decode_tokens + 1], seconds),
        )


def _window(source: Source, emit: Emit, fields: dict[str, Any], work: Callable[[], int]) -> None:
    """Do `work` and write the joules of its time; joules are None where the source fell silent."""
    void = source.void()
    if source.counters:
        before, started = counted(source), time.perf_counter()
        tokens = work()
        after, seconds = counted(source), time.perf_counter() - started
        joules = None if before is None or after is None else joules_between(source, before, after)
        readings: list[tuple[float, float]] = []
    else:
        with _Meter(source) as meter:
            started = time.perf_counter()
            tokens = work()
            seconds = time.perf_counter() - started
        readings = meter.readings
        joules = _integral(readings, seconds)
    emit(
        "energy",
        **fields,
        seconds=seconds,
        tokens=tokens,
        joules=joules,
        void=void or source.void(),
        watts=[[round(at - started, 3), round(value, 4)] for at, value in readings],
    )


class _Meter:
    """Reads a source's power at its interval, from the start of a block to its end."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read_on, name="power meter", daemon=True)
        self.readings: list[tuple[float, float]] = []

    def __enter__(self) -> "_Meter":
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._read()

    def _read_on(self) -> None:
        while not self._over.wait(self._source.interval):
            self._read()

    def _read(self) -> None:
        if self._source.watts is not None and (value := self._source.watts()) is not None:
            self.readings.append((time.perf_counter(), value))


def _integral(readings: list[tuple[float, float]], seconds: float) -> float | None:
    """Joules in `seconds`, by the trapezoid rule; readings a little before and after count by their mean."""
    if len(readings) < 2:
        return None
    area = sum((second - first) * (a + b) / 2 for (first, a), (second, b) in pairwise(readings))
    return area / (readings[-1][0] - readings[0][0]) * seconds


def _rest(seconds: float) -> int:
    time.sleep(seconds)
    return 0


def _prefill(engine: "Engine", prompt: list[int], seconds: float) -> int:
    tokens, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        engine.prefill(prompt)
        tokens += len(prompt)
    return tokens


def _decode(engine: "Engine", ids: list[int], seconds: float) -> int:
    """Decode from an empty context over and over; the first token is a step of one token like the others."""
    tokens, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        engine.prefill(ids[:1])
        for token in ids[1:]:
            engine.decode(token)
        tokens += len(ids)
    return tokens
