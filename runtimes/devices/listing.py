"""Which devices there are, what each is, and what stands in its way."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from runtimes.devices import parse_device
from runtimes.devices.adb import SCHEME, list_adb_devices
from runtimes.facts import Facts
from toolkit.errors import DeviceError


@dataclass(frozen=True)
class Listed:
    """A device by its name: its facts, or why it cannot be used."""

    device: str
    facts: Facts | None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        facts = None if self.facts is None else self.facts.as_dict()
        return {"device": self.device, "facts": facts, "problem": self.problem}


def device_names(named: Sequence[str]) -> tuple[list[str], str | None]:
    """`local`, the `named` ones and all that adb lists; and why adb lists none, if it cannot be asked."""
    problem = None
    try:
        phones = [SCHEME + each.serial for each in list_adb_devices()]
    except DeviceError as fault:
        phones, problem = [], str(fault)
    return list(dict.fromkeys(["local", *named, *phones])), problem


def look_at(names: Sequence[str], seen: Callable[[Listed], None] = lambda device: None) -> list[Listed]:
    """Look at every device, all at the same time; a device that cannot be used does not hide the others."""

    def look(name: str) -> Listed:
        try:
            device = parse_device(name)
            try:
                found = Listed(device.name, device.facts())
            finally:
                device.close()
        except DeviceError as fault:
            found = Listed(name, None, str(fault))
        seen(found)
        return found

    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        return list(pool.map(look, names))
