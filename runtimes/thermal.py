"""How hot a machine is, and what it does about it. Standard library only; it runs on the device.

Sources: Documentation/driver-api/thermal (thermal zones, hwmon); Raspberry Pi documentation, `vcgencmd
get_throttled`; Android's Thermal HAL 2.0 and `PowerManager.THERMAL_STATUS_*`, as `dumpsys thermalservice`
prints them.
"""

import re
from pathlib import Path
from typing import Any

from runtimes.facts import core_folders, read_number, read_text
from runtimes.programs import ask

VCGENCMD = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")
DUMPSYS = ("system/bin/dumpsys",)
# From here on Android itself slows the processor down.
THERMAL_STATUS_MODERATE = 2
# Of `vcgencmd get_throttled`, the bits that speak of now.
THROTTLED_NOW = 0xF
_HAL_HEADING = "Current temperatures from HAL:"
_HAL_TEMPERATURE = re.compile(r"Temperature\{mValue=([-\d.]+), mType=(-?\d+), mName=([^,}]+)")
_HAL_TYPES = {0: "CPU", 1: "GPU", 2: "battery", 3: "skin"}

Zones = dict[str, dict[str, float | None]]


def temperatures(root: Path) -> Zones:
    """Degrees Celsius by sensor, with the lowest passive trip point as `limit` where the kernel names one."""
    return heat(root)[0]


def heat(root: Path) -> tuple[Zones, int | None]:
    """The temperatures; and Android's thermal status, from 0 (none) over 2 (moderate) to 6 (shutdown)."""
    said = ask(root, DUMPSYS, "thermalservice") or ""
    status = re.search(r"^\s*Thermal Status: (\d+)", said, re.MULTILINE)
    zones = _zones(root) or _hwmon(root) or _hal_temperatures(said)
    return zones, int(status[1]) if status else None


def throttle_flags(root: Path) -> int | None:
    """Raspberry Pi firmware's word: bit 0 under-voltage, 1 frequency capped, 2 throttled, 3 soft limit.

    The same bits plus 16 say that it has happened since the board was started.
    """
    said = (ask(root, VCGENCMD, "get_throttled") or "").strip()
    if found := re.fullmatch(r"throttled=0x([0-9a-fA-F]+)", said):
        return int(found[1], 16)
    for path in (root / "sys/devices/platform").glob("soc*/*firmware/get_throttled"):
        return read_number(path, base=16)
    return None


def throttle_events(root: Path) -> int | None:
    """How often the cores have throttled since the start (x86)."""
    counts = [read_number(folder / "thermal_throttle/core_throttle_count") for folder in core_folders(root)]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _zones(root: Path) -> Zones:
    found: Zones = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = read_number(zone / "temp")
        if value is not None and 0 < value < 200_000:
            name = read_text(zone / "type") or zone.name
            found[_unused(name, found)] = {"celsius": value / 1000, "limit": _passive_trip(zone)}
    return found


def _hwmon(root: Path) -> Zones:
    found: Zones = {}
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*/temp*_input")):
        value = read_number(sensor)
        if value is not None and 0 < value < 200_000:
            label = read_text(sensor.with_name(sensor.name.replace("_input", "_label")))
            name = " ".join(word for word in (read_text(sensor.parent / "name"), label) if word)
            found[_unused(name or sensor.name, found)] = {"celsius": value / 1000, "limit": None}
    return found


def _hal_temperatures(said: str) -> Zones:
    """The HAL's list, or the service's last values where there is none; zeros are missing sensors."""
    found: Zones = {}
    cached, _, current = said.partition(_HAL_HEADING)
    current = current if _HAL_TEMPERATURE.search(current) else cached
    for value, kind, name in _HAL_TEMPERATURE.findall(current):
        if int(kind) in _HAL_TYPES and 0 < float(value) < 200:
            label = f"{_HAL_TYPES[int(kind)]} {name}"
            found[_unused(label, found)] = {"celsius": float(value), "limit": None}
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
