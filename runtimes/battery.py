"""The battery and what feeds the machine. Standard library only; it runs on the device.

Sources: Documentation/ABI/testing/sysfs-class-power; Android's BatteryManager, as `dumpsys battery` prints
it.
"""

import re
from pathlib import Path
from typing import Any

from runtimes.facts import read_number, read_text
from runtimes.programs import ask
from runtimes.thermal import DUMPSYS

# Below it a phone may save power on its own.
LOW_LEVEL = 20
_STATUS = {2: "Charging", 3: "Discharging", 4: "Not charging", 5: "Full"}


def battery(root: Path) -> dict[str, Any] | None:
    """Level [%], status in the kernel's words, charging or not, volts, amperes, degrees Celsius; or None.

    `charging` is true as soon as any external power is there. Amperes are a magnitude: drivers disagree on
    the sign, and some count in milliamperes, so that only `status` tells which way the current flows.
    """
    return _from_sysfs(root) or _from_android(ask(root, DUMPSYS, "battery") or "")


def battery_folder(root: Path) -> Path | None:
    """The /sys folder of the machine's own battery; batteries of mice and pens are of scope Device."""
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        own = read_text(supply / "type") == "Battery" and read_text(supply / "scope") != "Device"
        if own and read_number(supply / "present") != 0:
            return supply
    return None


def external_power(root: Path) -> str | None:
    """The name of a supply that is plugged in, such as usb or AC."""
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        if read_text(supply / "type") not in (None, "Battery") and (read_number(supply / "online") or 0) > 0:
            return supply.name
    return None


def volts(folder: Path) -> float | None:
    """Voltage of a supply; the kernel's unit is the microvolt, some phones give millivolts."""
    value = read_number(folder / "voltage_now")
    if value is None or value <= 0:
        return None
    # No battery of a computer has a tenth of a volt, none has a hundred volts.
    return value / 1e6 if value >= 100_000 else value / 1e3


def microamperes(folder: Path) -> int | None:
    """The magnitude of a supply's current as the driver gives it: microamperes, on some phones milli."""
    value = read_number(folder / "current_now")
    return None if value is None else abs(value)


def _from_sysfs(root: Path) -> dict[str, Any] | None:
    folder = battery_folder(root)
    if folder is None:
        return None
    status, tenths, current = (
        read_text(folder / "status"),
        read_number(folder / "temp"),
        microamperes(folder),
    )
    return {
        "level": read_number(folder / "capacity"),
        "status": status,
        "charging": status == "Charging" or external_power(root) is not None,
        "volts": volts(folder),
        "amperes": None if current is None else current / 1e6,
        "celsius": None if tenths is None else tenths / 10,
    }


def _from_android(said: str) -> dict[str, Any] | None:
    told = {name.strip(): value for name, value in re.findall(r"^ +([\w ]+): (\S+)$", said, re.MULTILINE)}
    if "level" not in told:
        return None

    def number(name: str) -> int | None:
        value = told.get(name, "")
        return int(value) if re.fullmatch(r"-?\d+", value) else None

    millivolts, tenths, level, scale = map(number, ("voltage", "temperature", "level", "scale"))
    powered = any(told.get(f"{source} powered") == "true" for source in ("AC", "USB", "Wireless", "Dock"))
    status = _STATUS.get(number("status") or 0)
    current = number("current now")
    return {
        "level": None if level is None else round(100 * level / (scale or 100)),
        "status": status,
        "charging": powered or status == "Charging",
        "volts": None if not millivolts or millivolts <= 0 else millivolts / 1e3,
        "amperes": None if current is None else abs(current) / 1e6,
        "celsius": None if tenths is None else tenths / 10,
    }
