"""Whether a run may be relied on: not throttled, starved of memory, disturbed or too uneven."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.notes import notes, pi_flags, sticky_flags
from benchmarks.results import Validity, derive
from benchmarks.stats import median
from runtimes.sensors import other_work, too_hot
from runtimes.settle import TEMPERATURE_LIMIT, other_work_limit
from runtimes.thermal import THERMAL_STATUS_MODERATE

# Below three repeats there is no spread to speak of.
LEAST_REPEATS = 3
# The interval of the median relative to the median: beyond it a difference of a tenth between two artifacts,
# which is what a person choosing between them wants to see, drowns.
SPREAD_LIMIT = 0.20
# The later half against the earlier half: heat slows a machine in one direction, chance in both.
SLOWDOWN_LIMIT = 0.10
# Cores' worth of time that a hypervisor gave to somebody else: the clock ran and the model did not.
STEAL_CORES = 0.05
# Without the counters of /proc/stat: one minute's load average of a machine at rest stays below it.
LOAD_AVERAGE_LIMIT = 0.5
# Below a twentieth of all memory the kernel drops pages of the mapped model file and reads them again.
MEMORY_AVAILABLE_SHARE = 0.05
# After the warm-up the model is resident; pages read from storage again mean that it was pushed out.
MAJOR_FAULTS_LIMIT = 100
# A few pages of an idle library may be swapped out at any time; a megabyte is part of the model or its cache.
SWAPPED_LIMIT = 1 << 20
# Boost clocks wander by some per cent with the number of busy cores; a fifth is throttling.
FREQUENCY_DROP = 0.20
# More processor time than that of all threads asked for: somebody started threads of his own.
THREADS_MARGIN = 1.1
_THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

Sample = Mapping[str, Any]


def judge(samples: Sequence[Sample], threads: int | None = None, *, emulated: bool = False) -> Validity:
    """Every reason why the run behind `samples` is not a valid measurement, and what else is to be said.

    An emulated device shows no times, so nothing that disturbs times counts against it. Samples of older
    agents, and of agents on other systems, may lack what they did not know of.
    """
    readings = [sample for sample in samples if sample["kind"] == "sensors"]
    measured = [r for r in readings if r["when"] == "start" or (r["when"] == "during" and not r["warmup"])]
    if emulated:
        starved = list(_memory(samples, measured))
        return Validity(not starved, starved, ["an emulated device: its times are not shown"])
    reasons = [
        *_settled(samples),
        *_affinity(samples, threads),
        *_heat(measured),
        *_firmware(readings, measured),
        *_frequency(measured),
        *_clock(measured),
        *_memory(samples, measured),
        *_uneven(samples),
    ]
    if len(measured) > 1:
        reasons += _disturbed(readings, measured, _cores(samples))
    return Validity(not reasons, reasons, notes(samples, _threads(samples, threads)))


def _cores(samples: Iterable[Sample]) -> int:
    return next((int(sample["allowed_cores"]) for sample in samples if sample["kind"] == "hello"), 1)


def _settled(samples: Iterable[Sample]) -> Iterable[str]:
    for sample in samples:
        if sample["kind"] == "settle" and not sample["reached"]:
            yield f"not at rest after {sample['seconds']:.0f} s of waiting: {sample['waiting_for']}"


def _affinity(samples: Sequence[Sample], threads: int | None) -> Iterable[str]:
    cores = _cores(samples)
    if threads is not None and threads > cores:
        yield f"{threads} threads on the {cores} cores that the process may use"
    hello = next((sample for sample in samples if sample["kind"] == "hello"), {})
    asked, limit = hello.get("cores"), _threads(samples, threads)
    for sample in samples:
        if sample["kind"] != "threads":
            continue
        for which, what in (("allowed", "may run"), ("ran_on", "ran")):
            if asked and (beyond := sorted(set(sample[which]) - set(asked))):
                named = ", ".join(map(str, beyond))
                yield f"threads {what} on core {named}, outside of those that were set"
        busy = sum(sample["busy"]) / sample["seconds"]
        if limit is not None and busy > THREADS_MARGIN * limit:
            yield f"{busy:.1f} cores were busy with the {limit} thread{'s' * (limit != 1)} asked for"


def _threads(samples: Iterable[Sample], asked: int | None) -> int | None:
    """The threads that the runtime was told to use: as asked, or what the agent made of the cores."""
    told = (sample.get("threads") for sample in samples if sample["kind"] == "load")
    return asked if asked is not None else next((number for number in told if number), None)


def _disturbed(readings: Sequence[Sample], measured: Sequence[Sample], cores: int) -> Iterable[str]:
    work = other_work(dict(measured[0]), dict(measured[-1]))
    if work is not None:
        others, stolen = work
        if others > other_work_limit(cores):
            yield f"other processes kept {others:.2f} cores busy (limit {other_work_limit(cores):.2f})"
        if stolen > STEAL_CORES:
            yield f"the hypervisor took {stolen:.2f} cores away (limit {STEAL_CORES:.2f})"
        return
    load = readings[0]["load_average"]
    if measured[0]["processor"] is None and load and load[0] > LOAD_AVERAGE_LIMIT:
        yield f"load average {load[0]:.2f} before the run (limit {LOAD_AVERAGE_LIMIT:.2f})"


def _heat(measured: Sequence[Sample]) -> Iterable[str]:
    hot = next((text for reading in measured if (text := too_hot(dict(reading), TEMPERATURE_LIMIT))), None)
    if hot:
        yield f"too hot: {hot}"
    status = max((reading.get("thermal_status") or 0 for reading in measured), default=0)
    if status >= THERMAL_STATUS_MODERATE:
        name = _THERMAL_STATUS[min(status, len(_THERMAL_STATUS) - 1)]
        yield f"Android's thermal status was {status} ({name})"
    events = [reading["throttle_events"] for reading in measured if reading["throttle_events"] is not None]
    if events and events[-1] > events[0]:
        yield f"the processor throttled {events[-1] - events[0]} times"


def _firmware(readings: Sequence[Sample], measured: Sequence[Sample]) -> Iterable[str]:
    """What the Raspberry Pi's firmware says of now, and of what came and went between the readings."""
    flags = 0
    for reading in measured:
        flags |= reading["throttle_flags"] or 0
    if named := pi_flags(flags):
        yield f"the firmware reports {', '.join(named)}"
    if len(measured) > 1:
        since = sticky_flags(measured[-1]) & ~sticky_flags(readings[0]) & ~flags
        if named := pi_flags(since):
            yield f"between two readings the firmware saw {', '.join(named)}"


def _clock(measured: Sequence[Sample]) -> Iterable[str]:
    """The mean clock of each repeat, from the time that the kernel counted at each frequency."""
    means = []
    for reading in measured:
        spent = reading.get("frequency_seconds") or {}
        clocks = [
            sum(float(mhz) * seconds for mhz, seconds in policy.items()) / sum(policy.values())
            for policy in spent.values()
            if policy
        ]
        if clocks:
            means.append(max(clocks))  # of several clusters the one that worked
    if means and min(means) < (1 - FREQUENCY_DROP) * max(means):
        yield f"the mean clock of a repeat fell from {max(means):.0f} to {min(means):.0f} MHz"
    online = [reading["online_cores"] for reading in measured if reading.get("online_cores")]
    if online and (gone := sorted(set(online[0]).difference(set.intersection(*map(set, online))))):
        yield f"core {', '.join(map(str, gone))} went offline"


def _frequency(measured: Sequence[Sample]) -> Iterable[str]:
    """Compare the readings taken right behind timed work; the one before it saw an idle machine."""
    for name, what in (("frequency_mhz", "clock"), ("allowed_mhz", "highest clock that the kernel allows")):
        peaks = [
            max(known)
            for reading in measured
            if reading["when"] == "during" and (known := [mhz for mhz in reading[name] or [] if mhz])
        ]
        if peaks and min(peaks) < (1 - FREQUENCY_DROP) * max(peaks):
            yield f"the {what} fell from {max(peaks):.0f} to {min(peaks):.0f} MHz"


def _memory(samples: Sequence[Sample], measured: Sequence[Sample]) -> Iterable[str]:
    for reading in measured:
        available, total = reading["memory_available"], reading["memory_total"]
        if available is not None and total and available < MEMORY_AVAILABLE_SHARE * total:
            yield f"starved of memory: {available / total:.1%} of it was available"
            break
    faults = [reading["major_faults"] for reading in measured if reading["major_faults"] is not None]
    if faults and faults[-1] - faults[0] > MAJOR_FAULTS_LIMIT:
        yield f"starved of memory: {faults[-1] - faults[0]} pages were read from storage again"
    swapped = max((sample["swapped"] or 0 for sample in samples if sample["kind"] == "memory"), default=0)
    if swapped > SWAPPED_LIMIT:
        yield f"starved of memory: {swapped / 1e6:.0f} MB of the process were swapped out"


def _uneven(samples: Sequence[Sample]) -> Iterable[str]:
    rates = {name: value for name, value in derive(samples).items() if "_rate" in name}
    for name, rate in rates.items():
        label = name.replace("_rate", "").replace("_at_", " at depth ")
        count = len(rate.values)
        if count < LEAST_REPEATS:
            yield f"{label}: {count} repeat{'s' * (count != 1)}; a spread needs at least {LEAST_REPEATS}"
            continue
        spread = (rate.high - rate.low) / rate.median
        if spread > SPREAD_LIMIT:
            yield f"{label}: spread of {spread:.0%} around the median (limit {SPREAD_LIMIT:.0%})"
        half = count // 2
        slowdown = 1 - median(rate.values[-half:]) / median(rate.values[:half])
        if half > 1 and slowdown > SLOWDOWN_LIMIT:
            yield f"{label}: slowed down by {slowdown:.0%} during the run (limit {SLOWDOWN_LIMIT:.0%})"
