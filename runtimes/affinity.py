"""On which cores the process may run, and on which it does. Standard library only; it runs on the device.

Sources: sched_setaffinity(2), proc(5) (`/proc/self/task/TID/status` and `stat`), Documentation/devicetree/
bindings/cpu/cpu-capacity.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from runtimes.facts import core_folders, core_list, kernel_words, parse_core_list, read_number, read_text
from toolkit.errors import DeviceError

FAST = "fast"
# Boost clocks of equal cores differ by a few per cent; clusters differ by more.
_CLUSTER_GAP = 0.10
_ROOT = Path("/")


def allowed_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def clusters(root: Path = _ROOT) -> list[list[int]]:
    """The online cores in clusters of like speed, slowest first.

    By `cpu_capacity`, which the kernel scales to 1024 for the fastest core, or by the highest frequency; one
    cluster where the machine tells neither.
    """
    online = core_list(root / "sys/devices/system/cpu/online")
    speeds: dict[int, int] = {}
    for folder in core_folders(root):
        core = int(folder.name.removeprefix("cpu"))
        if online is None or core in online:
            speed = read_number(folder / "cpu_capacity") or read_number(folder / "cpufreq/cpuinfo_max_freq")
            speeds[core] = speed or 0
    groups: list[list[int]] = []
    for core in sorted(speeds, key=lambda each: (speeds[each], each)):
        slowest = speeds[groups[-1][0]] if groups else None
        if slowest is None or speeds[core] > slowest * (1 + _CLUSTER_GAP):
            groups.append([])
        groups[-1].append(core)
    return [sorted(group) for group in groups]


def fast_cores(root: Path = _ROOT) -> list[int]:
    """All but the slowest cluster; every core where there is only one cluster."""
    groups = clusters(root)
    return sorted(core for group in groups[1:] or groups for core in group)


def choose_cores(wanted: tuple[int, ...] | str, root: Path = _ROOT) -> list[int]:
    """The core numbers that a plan's `cores` stands for; DeviceError if one cannot be used."""
    allowed = allowed_cores()
    named = {core for core in wanted if isinstance(core, int)}
    cores = set(fast_cores(root)) & set(allowed) if wanted == FAST else named
    if not cores or cores - set(allowed):
        beyond = ", ".join(map(str, sorted(cores - set(allowed)))) or "any of the fast ones"
        raise DeviceError(
            f"cores: this process may not use {beyond}",
            mend=f"It may use: {', '.join(map(str, allowed))}",
        )
    return sorted(cores)


def pin(cores: list[int]) -> None:
    """Bind every thread of this process to `cores`; later threads inherit it. DeviceError if refused."""
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("cores: this system cannot bind a process to cores", mend="Leave cores out")
    try:
        for thread in thread_ids():
            try:
                os.sched_setaffinity(thread, cores)
            except ProcessLookupError:  # a thread that has ended meanwhile
                continue
    except OSError as fault:
        raise DeviceError(f"cores: the system refused {cores} ({fault.strerror})") from fault


def thread_ids(root: Path = _ROOT) -> list[int]:
    """The ids of this process's threads; 0, which stands for the caller, where /proc is missing."""
    try:
        return sorted(int(folder.name) for folder in (root / "proc/self/task").iterdir())
    except OSError:
        return [0]


@dataclass(frozen=True)
class Thread:
    """One thread: the cores that it may use, the one it ran on last, its processor time in seconds."""

    name: str
    allowed: tuple[int, ...]
    core: int
    busy: float


def threads(root: Path = _ROOT) -> dict[int, Thread]:
    """Every thread of this process by its id; empty where /proc does not tell."""
    found = {}
    for thread in thread_ids(root):
        folder = root / "proc/self/task" / str(thread)
        name, _, rest = (read_text(folder / "stat") or "").rpartition(")")
        fields = rest.split()  # from field 3 of proc(5) on
        allowed = parse_core_list(kernel_words(folder / "status").get("Cpus_allowed_list"))
        if len(fields) > 36 and allowed is not None:
            busy = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[thread] = Thread(name.partition("(")[2], tuple(allowed), int(fields[36]), busy)
    return found


# A thread that did less than this share of the busiest one's work only waited; idle pools wake for moments.
_WORKED = 0.10


class ThreadWatch:
    """Which threads work between its making and `report`, and where; `look` in between for more sightings."""

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._started = time.perf_counter()
        self._before = threads(root)
        self._ran_on: dict[int, set[int]] = {}

    def look(self) -> dict[int, Thread]:
        """Note on which core each thread ran last."""
        now = threads(self._root)
        for thread, state in now.items():
            self._ran_on.setdefault(thread, set()).add(state.core)
        return now

    def report(self) -> dict[str, object] | None:
        """How many threads there are and how many `working`, the `seconds` watched, processor seconds of each
        (`busy`, most first), the cores that any of them may use (`allowed`), and those that the working ones
        were seen on (`ran_on`). None where the system does not tell.
        """
        now = self.look()
        if not now:
            return None
        worked = {
            thread: state.busy - (self._before[thread].busy if thread in self._before else 0.0)
            for thread, state in now.items()
        }
        most = max(worked.values())
        working = [thread for thread, busy in worked.items() if busy > 0 and busy >= _WORKED * most]
        return {
            "threads": len(now),
            "working": len(working),
            "seconds": time.perf_counter() - self._started,
            "busy": sorted((round(busy, 2) for busy in worked.values()), reverse=True),
            "allowed": sorted({core for state in now.values() for core in state.allowed}),
            "ran_on": sorted({core for thread in working for core in self._ran_on[thread]}),
        }
