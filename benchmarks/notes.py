"""What a reader should know of a run, valid or not."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtimes.battery import LOW_LEVEL
from runtimes.settle import other_work_limit
from runtimes.thermal import THROTTLED_NOW

PI_FLAGS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_STICKY = 16
# Of a bundle that was dropped from the page cache a few pages may be back before the load.
_CACHED_LIMIT = 0.05
# The kernel counts a thread's time in hundredths of a second.
_TELLING_SECONDS = 0.5

Sample = Mapping[str, Any]


def pi_flags(flags: int) -> list[str]:
    """The names of the conditions in the low four bits of `vcgencmd get_throttled`."""
    return [name for bit, name in enumerate(PI_FLAGS) if flags >> bit & 1]


def sticky_flags(reading: Sample) -> int:
    """The conditions that have been since the board was started, in the low four bits."""
    return (int(reading.get("throttle_flags") or 0) >> _STICKY) & THROTTLED_NOW


def notes(samples: Sequence[Sample], threads: int | None) -> list[str]:
    """Every note on the run behind `samples`, in the order of the run."""
    readings = [sample for sample in samples if sample["kind"] == "sensors"]
    found = [*_before(readings[0])] if readings else []
    found += _battery(readings)
    for sample in samples:
        found += _NOTED.get(sample["kind"], _nothing)(sample)
        if sample["kind"] == "threads" and threads is not None:
            found += _threads(sample, threads)
    return [*found, *_disturbed(samples)]


def _before(first: Sample) -> Iterable[str]:
    governors = sorted({name for name in first.get("governors") or [] if name} - {"performance"})
    if governors:
        yield f"governor {', '.join(governors)}: the clock follows the load"
    if earlier := pi_flags(sticky_flags(first)):
        yield f"before the run, since its start, the firmware had seen {', '.join(earlier)}"


def _battery(readings: Sequence[Sample]) -> Iterable[str]:
    states = [reading["battery"] for reading in readings if reading.get("battery")]
    levels = [state["level"] for state in states if state.get("level") is not None]
    if any(state.get("charging") for state in states):
        yield "on external power: charging warms a battery"
    elif levels and min(levels) <= LOW_LEVEL:
        yield f"battery at {min(levels)} %: the device may save power"


def _power(sample: Sample) -> Iterable[str]:
    if sample["source"] is not None and sample["void"]:
        yield f"no energy from {sample['source']}: {sample['void']}"


def _load(sample: Sample) -> Iterable[str]:
    cached = sample.get("cached")
    if cached is not None and cached > _CACHED_LIMIT:
        yield f"the cold load found {cached:.0%} of the bundle in the page cache"


def _cool(sample: Sample) -> Iterable[str]:
    if not sample["reached"]:
        warmer = sample["celsius"] - sample["target"]
        yield f"repeat {sample['repeat'] + 1} began {warmer:.0f} °C warmer than the first one"


def _disturbed(samples: Sequence[Sample]) -> Iterable[str]:
    """Other processes beside the sustained decode: its limit is that of the repeats."""
    cores = next((sample["allowed_cores"] for sample in samples if sample["kind"] == "hello"), 1)
    busy = [sample["other_cores"] for sample in samples if sample["kind"] == "sustained"]
    most = max((each for each in busy if each is not None), default=0.0)
    if most > other_work_limit(cores):
        yield f"during the sustained decode other processes kept up to {most:.2f} cores busy"


def _sustained(sample: Sample) -> Iterable[str]:
    if not sample["settled"]:
        yield f"the sustained rate had not settled after {sample['minutes']} minutes"


def _threads(sample: Sample, threads: int) -> Iterable[str]:
    if sample["working"] < threads and max(sample["busy"]) >= _TELLING_SECONDS:
        yield f"only {sample['working']} of {threads} threads had work"


def _nothing(sample: Sample) -> Iterable[str]:
    return ()


_NOTED = {"power": _power, "load": _load, "cool": _cool, "sustained end": _sustained}
