"""What a machine and this process are doing just now. Standard library only; it runs on the device.

Kernel documentation: proc(5), Documentation/driver-api/thermal, Documentation/admin-guide/pm/cpufreq.
"""

import os
import time
from pathlib import Path
from typing import Any

from runtimes.facts import core_folders, kernel_table, read_number, read_text

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
    throttle), frequencies in MHz for each core, processor seconds since boot, memory in bytes.
    """
    meminfo = kernel_table(root / "proc/meminfo")
    swap = meminfo.get("SwapTotal"), meminfo.get("SwapFree")
    return {
        "temperatures": _temperatures(root) or None,
        "governors": _each_core(root, "scaling_governor", read_text),
        "frequency_mhz": _each_core(root, "scaling_cur_freq", _mhz),
        "allowed_mhz": _each_core(root, "scaling_max_freq", _mhz),
        "hardware_mhz": _each_core(root, "cpuinfo_max_freq", _mhz),
        "throttle_flags": _pi_throttle_flags(root),
        "throttle_events": _throttle_events(root),
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


def _temperatures(root: Path) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = read_number(zone / "temp")
        if value is not None and 0 < value < 200_000:
            name = read_text(zone / "type") or zone.name
            found[_unused(name, found)] = {"celsius": value / 1000, "limit": _passive_trip(zone)}
    if found:
        return found
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*/temp*_input")):
        value = read_number(sensor)
        if value is not None and 0 < value < 200_000:
            label = read_text(sensor.with_name(sensor.name.replace("_input", "_label")))
            name = " ".join(word for word in (read_text(sensor.parent / "name"), label) if word)
            found[_unused(name or sensor.name, found)] = {"celsius": value / 1000, "limit": None}
    return found


def _unused(name: str, taken: dict[str, Any]) -> str:
    number = 2
    unused = name
    while unused in taken:
        unused, number = f"{name} {number}", number + 1
    return unused


def _passive_trip(zone: Path) -> float | None:
    trips = (
        read_number(kind.with_name(kind.name.replace("_type", "_temp")))
        for kind in zone.glob("trip_point_*_type")
        if read_text(kind) == "passive"
    )
    return min((trip / 1000 for trip in trips if trip and trip > 0), default=None)


def _mhz(path: Path) -> float | None:
    khz = read_number(path)
    return None if khz is None else khz / 1000


def _each_core(root: Path, name: str, read: Any) -> list[Any] | None:
    values = [read(folder / "cpufreq" / name) for folder in core_folders(root)]
    return values if any(value is not None for value in values) else None


def _pi_throttle_flags(root: Path) -> int | None:
    """Raspberry Pi firmware's word: bit 0 under-voltage, 1 frequency capped, 2 throttled, 3 soft limit."""
    for path in (root / "sys/devices/platform").glob("soc*/*firmware/get_throttled"):
        return read_number(path, base=16)
    return None


def _throttle_events(root: Path) -> int | None:
    counts = [read_number(folder / "thermal_throttle/core_throttle_count") for folder in core_folders(root)]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


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
