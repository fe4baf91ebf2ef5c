"""Waiting until a machine is quiet and cool enough to be measured. Standard library only, for the device."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtimes.sensors import hottest, other_work, sensors, too_hot
from runtimes.thermal import THERMAL_STATUS_MODERATE, THROTTLED_NOW, temperatures

# A quarter of a core: an idle desktop or phone stays well below it, and one busy process is well above it.
OTHER_WORK_CORES = 0.25
# On machines with many cores the usual background services add up: one core in twenty is still undisturbed.
OTHER_WORK_SHARE = 0.05
# For zones that name no passive trip point: small boards and phones start to throttle between 80 and 85 °C.
TEMPERATURE_LIMIT = 80.0
# A repeat may start so much warmer than the first one did: boards' sensors have steps of half a degree.
COOL_MARGIN = 2.0
_POLL_SECONDS = 1.0


def other_work_limit(cores: int) -> float:
    """How many cores other processes may keep busy before a measurement counts as disturbed."""
    return max(OTHER_WORK_CORES, OTHER_WORK_SHARE * cores)


def settle(
    timeout: float,
    cores: int,
    *,
    read: Callable[[], dict[str, Any]] = sensors,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Wait until other processes are idle and no zone is too hot, for `timeout` seconds at most.

    Returns {"seconds": waited, "reached": the condition holds or cannot be told, "waiting_for": text or None}
    """
    started = clock()
    reading = read()
    waiting_for: str | None = "a first look at the other processes"
    while waiting_for is not None and clock() - started < timeout:
        pause(_POLL_SECONDS)
        previous, reading = reading, read()
        waiting_for = _disturbance(previous, reading, cores)
    return {"seconds": clock() - started, "reached": waiting_for is None, "waiting_for": waiting_for}


def cool(
    target: float,
    timeout: float,
    *,
    root: Path = Path("/"),
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Wait until the hottest sensor is back at `target` degrees Celsius (and COOL_MARGIN), at most `timeout`.

    Returns {"seconds": waited, "reached": whether, "celsius": the last reading, "target": as given}.
    """
    started = clock()
    while True:
        celsius = hottest({"temperatures": temperatures(root)})
        reached = celsius is None or celsius <= target + COOL_MARGIN
        if reached or clock() - started >= timeout:
            break
        pause(_POLL_SECONDS)
    return {"seconds": clock() - started, "reached": reached, "celsius": celsius, "target": target}


def _disturbance(before: dict[str, Any], after: dict[str, Any], cores: int) -> str | None:
    if hot := too_hot(after, TEMPERATURE_LIMIT):
        return hot
    status = after.get("thermal_status")
    if status is not None and status >= THERMAL_STATUS_MODERATE:
        return f"Android's thermal status, which is {status}"
    if (after.get("throttle_flags") or 0) & THROTTLED_NOW:
        return "the firmware, which throttles or lacks voltage"
    work = other_work(before, after)
    if work is not None and work[0] > other_work_limit(cores):
        return f"other processes, which keep {work[0]:.2f} cores busy"
    return None
