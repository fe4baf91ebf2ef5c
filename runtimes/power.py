"""Where a machine tells its power: counters of energy, and meters of power. Standard library only.

Sources: Documentation/power/powercap (RAPL), Documentation/hwmon/sysfs-interface and ina2xx,
Documentation/ABI/testing/sysfs-class-power, Raspberry Pi documentation (`vcgencmd pmic_read_adc`, Pi 5).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtimes.battery import battery_folder, external_power, microamperes, volts
from runtimes.facts import read_number, read_text
from runtimes.programs import ask
from runtimes.thermal import VCGENCMD

# These chips meter themselves (a graphics card, the battery's own gauge), not what the model runs on.
_OTHER_CHIPS = ("amdgpu", "radeon", "nouveau", "i915", "xe", "nvme")
# Labels of the rail that feeds the whole board (Jetson, and boards after its pattern).
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VDD_TOTAL", "Total")
# All cores at work draw more than this from any battery; a smaller number of "microamperes" is milliamperes.
_LEAST_MICROAMPERES = 10_000
_RAIL = re.compile(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([-\d.]+)[AV]")


@dataclass(frozen=True)
class Source:
    """One place that tells power.

    A counter has `counters` (each with the file in microjoules and where it wraps), a meter has `watts`, read
    every `interval` seconds. `scope` is what is measured; `least_seconds` the shortest window that its
    resolution allows; `void` says why its figures would be wrong just now, or None.
    """

    name: str
    scope: str
    least_seconds: float
    counters: tuple[tuple[Path, int | None], ...] = ()
    watts: Callable[[], float | None] | None = None
    interval: float = 0.1
    void: Callable[[], str | None] = lambda: None


def find_source(root: Path = Path("/")) -> Source | None:
    """The machine's best source: an energy counter, a power sensor, the Pi's PMIC, a battery; or None."""
    for find in (_rapl, _hwmon_energy, _hwmon_power, _pmic, _battery):
        if source := find(root):
            return source
    return None


def _rapl(root: Path) -> Source | None:
    counters = []
    # One level only: intel-rapl:0:0 is a part of intel-rapl:0. The zone psys would count the package twice.
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        package = (read_text(zone / "name") or "").startswith("package")
        if zone.name.count(":") == 1 and package and read_number(zone / "energy_uj") is not None:
            counters.append((zone / "energy_uj", read_number(zone / "max_energy_range_uj")))
    return Source("powercap RAPL", "processor package", 1.0, tuple(counters)) if counters else None


def _hwmon_energy(root: Path) -> Source | None:
    for chip in _chips(root):
        files = sorted(file for file in chip.glob("energy*_input") if read_number(file) is not None)
        # amd_energy counts each core (Ecore) and each socket (Esocket), in which the cores are contained.
        sockets = [file for file in files if (_label(file) or "").startswith("Esocket")]
        if used := sockets or files[:1]:
            name = read_text(chip / "name") or chip.name
            scope = "processor socket" if sockets else _label(used[0]) or "what the chip meters"
            return Source(f"hwmon {name}", scope, 1.0, tuple((file, None) for file in used))
    return None


def _hwmon_power(root: Path) -> Source | None:
    channels = [channel for chip in _chips(root) for channel in _channels(chip)]
    readable = [(label, watts, now) for label, watts in channels if (now := watts()) is not None]
    if not readable:
        return None
    whole = [channel for channel in readable if channel[0].rpartition(" ")[2] in _WHOLE_BOARD]
    # The rail that feeds the others carries their power too: of several, the strongest is the widest.
    label, watts, _ = max(whole or readable, key=lambda channel: channel[2])
    return Source(f"hwmon {label}", "whole board" if whole else f"rail {label}", 2.0, watts=watts)


def _channels(chip: Path) -> list[tuple[str, Callable[[], float | None]]]:
    name = read_text(chip / "name") or chip.name
    found: list[tuple[str, Callable[[], float | None]]] = [
        (f"{name} {_label(file) or file.name.removesuffix('_input')}", _microwatts(file))
        for file in sorted(chip.glob("power*_input"))
    ]
    if found or not name.startswith("ina"):
        return found
    # The INA3221 gives bus voltage [mV] and current [mA] of its channels, not their product.
    for current in sorted(chip.glob("curr*_input")):
        voltage = chip / current.name.replace("curr", "in")
        if voltage.exists():
            label = _label(voltage) or _label(current) or current.name.removesuffix("_input")
            found.append((f"{name} {label}", _product(voltage, current)))
    return found


def _microwatts(file: Path) -> Callable[[], float | None]:
    return lambda: None if (value := read_number(file)) is None else value / 1e6


def _product(voltage: Path, current: Path) -> Callable[[], float | None]:
    def watts() -> float | None:
        millivolts, milliamperes = read_number(voltage), read_number(current)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6

    return watts


def _pmic(root: Path) -> Source | None:
    def watts() -> float | None:
        return _rails_watts(ask(root, VCGENCMD, "pmic_read_adc") or "")

    if watts() is None:
        return None
    # Conversion losses and what hangs on the 5 V line are outside of it.
    scope = "rails behind the power management chip"
    return Source("vcgencmd pmic_read_adc", scope, 4.0, watts=watts, interval=0.5)


def _rails_watts(said: str) -> float | None:
    rails: dict[str, dict[str, float]] = {}
    for name, unit, value in _RAIL.findall(said):
        rails.setdefault(name, {})[unit] = float(value)
    products = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    return sum(products) if products else None


def _battery(root: Path) -> Source | None:
    folder = battery_folder(root)
    if folder is None:
        return None
    current = _Current(folder)
    # Laptops tell the product; phones the factors.
    power = folder / "power_now"
    told = read_number(power) is not None
    watts = (lambda: abs(read_number(power) or 0) / 1e6) if told else current.watts
    if watts() is None:
        return None

    def void() -> str | None:
        if plugged := external_power(root):
            return f"it is on external power ({plugged})"
        status = read_text(folder / "status")
        return None if status == "Discharging" else f"the battery's status is {status}, not Discharging"

    # Fuel gauges of phones give a new value every second, some only every few seconds.
    return Source(f"battery {folder.name}", "whole device", 20.0, watts=watts, interval=0.5, void=void)


class _Current:
    """Power from a battery's current and voltage, the unit of the current learnt from its greatest value."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._greatest = 0

    def watts(self) -> float | None:
        amount, voltage = microamperes(self._folder), volts(self._folder)
        if amount is None or voltage is None:
            return None
        self._greatest = max(self._greatest, amount)
        unit = 1e6 if self._greatest >= _LEAST_MICROAMPERES else 1e3
        return voltage * amount / unit


def _chips(root: Path) -> list[Path]:
    return [
        chip
        for chip in sorted((root / "sys/class/hwmon").glob("hwmon*"))
        if read_text(chip / "name") not in _OTHER_CHIPS and read_text(chip / "device/type") is None
    ]


def _label(file: Path) -> str | None:
    return read_text(file.with_name(file.name.replace("_input", "_label")))


def counted(source: Source) -> list[int] | None:
    """Where every counter stands, in microjoules; None if one cannot be read."""
    values = [read_number(file) for file, _ in source.counters]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def joules_between(source: Source, before: list[int], after: list[int]) -> float:
    """Energy between two `counted`, each counter wrapping once at most."""
    total = 0
    for (_, top), first, last in zip(source.counters, before, after, strict=True):
        total += last - first if last >= first else last - first + (top or 2**32)
    return total / 1e6
