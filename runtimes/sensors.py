"""What a machine and this process are doing just now. Standard library only; it runs on the device.

Kernel documentation: proc(5), Documentation/driver-api/thermal, Documentation/admin-guide/pm/cpufreq.
"""

import os
import time
from pathlib import Path
from typing import Any

from runtimes.battery import battery
from runtimes.facts import core_folders, core_list, kernel_table, read_number, read_text
from runtimes.thermal import heat, throttle_events, throttle_flags

_ROOT = Path("/")


def memory(root: Path = _ROOT) -> dict[str, int | None]:
    """Bytes of this process alone: peak RSS (VmHWM), RSS, PSS, and what of it is swapped out."""
    status = kernel_table(root / "proc/self/status")
    return {
        "peak_rss": status.get("VmHWM"),
        "rss": status.get("VmRSS"),
        "pss": kernel_table(root / "proc/self/smaps_rollup").get("Pss"),
        "swapped": status.get("VmSwap"),
    }


def sensors(root: Path = _ROOT) -> dict[str, Any]:
    """One reading; None wherever the machine has no such sensor.

    Temperatures in degrees Celsius (`limit`: the zone's lowest passive trip point, where the kernel starts to
    throttle), frequencies in MHz for each core, processor seconds since boot, memory in bytes. It asks
    programs of the device (`vcgencmd`, `dumpsys`): it stands between timed regions, never within one.
    """
    meminfo = kernel_table(root / "proc/meminfo")
    swap = meminfo.get("SwapTotal"), meminfo.get("SwapFree")
    zones, status = heat(root)
    return {
        "temperatures": zones or None,
        "thermal_status": status,
        "governors": _each_core(root, "scaling_governor", read_text),
        "frequency_mhz": _each_core(root, "scaling_cur_freq", _mhz),
        "allowed_mhz": _each_core(root, "scaling_max_freq", _mhz),
        "hardware_mhz": _each_core(root, "cpuinfo_max_freq", _mhz),
        "time_in_state": time_in_state(root),
        "online_cores": core_list(root / "sys/devices/system/cpu/online"),
        "throttle_flags": throttle_flags(root),
        "throttle_events": throttle_events(root),
        "battery": battery(root),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "processor": _processor(root),
        "memory_available": meminfo.get("MemAvailable"),
        "memory_total": meminfo.get("MemTotal"),
        "swap_used": None if swap[0] is None or swap[1] is None else swap[0] - swap[1],
        "major_faults": _major_faults(root),
    }


def other_work(before: dict[str, Any], after: dict[str, Any]) -> tuple[float, float] | None:
    """Cores kept busy by other processes, and cores taken by the hypervisor, between two readings.

    None where the machine does not tell, or when the readings are less than half a second apart: the kernel
    counts in hundredths of a second.
    """
    first, last = before["processor"], after["processor"]
    if not first or not last or last["clock"] - first["clock"] < 0.5:
        return None
    elapsed = last["clock"] - first["clock"]
    others = (last["busy"] - first["busy"]) - (last["own"] - first["own"])
    return max(0.0, others / elapsed), max(0.0, (last["steal"] - first["steal"]) / elapsed)


def hottest(reading: dict[str, Any]) -> float | None:
    """The highest temperature of a reading, in degrees Celsius."""
    zones = reading["temperatures"] or {}
    return max((zone["celsius"] for zone in zones.values()), default=None)


def too_hot(reading: dict[str, Any], usual_limit: float) -> str | None:
    """The first zone at or above its own limit, as text; `usual_limit` serves zones without one."""
    for name, zone in (reading["temperatures"] or {}).items():
        limit = usual_limit if zone["limit"] is None else zone["limit"]
        if zone["celsius"] >= limit:
            return f"{name} at {zone['celsius']:.0f} °C, limit {limit:.0f} °C"
    return None


def time_in_state(root: Path = _ROOT) -> dict[str, dict[str, Any]] | None:
    """Seconds at each frequency since boot, by cpufreq policy: {"cores": [...], "seconds": {MHz: seconds}}.

    The kernel counts in hundredths of a second, idle time included (Documentation/cpu-freq/cpufreq-stats).
    """
    found = {}
    folder = root / "sys/devices/system/cpu/cpufreq"
    for policy in sorted(folder.glob("policy*"), key=lambda path: int(path.name.removeprefix("policy"))):
        words = (read_text(policy / "stats/time_in_state") or "").split()
        pairs = zip(words[::2], words[1::2], strict=False)
        seconds = {
            f"{int(khz) / 1000:g}": int(ticks) / 100
            for khz, ticks in pairs
            if khz.isdigit() and ticks.isdigit()
        }
        if seconds:
            cores = core_list(policy / "related_cpus") or core_list(policy / "affected_cpus")
            found[policy.name] = {"cores": cores, "seconds": seconds}
    return found or None


def frequency_seconds(
    before: dict[str, dict[str, Any]] | None, after: dict[str, dict[str, Any]] | None
) -> dict[str, dict[str, float]] | None:
    """Seconds at each frequency between two `time_in_state`, by policy; frequencies without any left out."""
    if not before or not after:
        return None
    return {
        policy: {
            mhz: round(seconds - then, 2)
            for mhz, seconds in state["seconds"].items()
            if seconds > (then := before[policy]["seconds"].get(mhz, 0.0))
        }
        for policy, state in after.items()
        if policy in before
    }


def _mhz(path: Path) -> float | None:
    khz = read_number(path)
    return None if khz is None else khz / 1000


def _each_core(root: Path, name: str, read: Any) -> list[Any] | None:
    values = [read(folder / "cpufreq" / name) for folder in core_folders(root)]
    return values if any(value is not None for value in values) else None


def _processor(root: Path) -> dict[str, float] | None:
    line = (read_text(root / "proc/stat") or "").partition("\n")[0].split()
    if len(line) < 9 or line[0] != "cpu":
        return None
    hertz = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(word) / hertz for word in line[1:9])
    return {
        "clock": time.monotonic(),
        "busy": user + nice + system + irq + softirq,
        "steal": steal,
        "own": time.process_time(),
    }


def _major_faults(root: Path) -> int | None:
    # The name of the process stands in brackets and may hold blanks; majflt is the tenth field after it.
    fields = (read_text(root / "proc/self/stat") or "").rpartition(")")[2].split()
    return int(fields[9]) if len(fields) > 9 else None
