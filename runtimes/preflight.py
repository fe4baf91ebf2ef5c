"""What must be so before a bundle is loaded. Standard library only; it runs on the device.

What only makes the figures doubtful is judged on the host, from the same readings; here is what makes a run
pointless or harmful.
"""

from pathlib import Path
from typing import Any

from toolkit.errors import DeviceError

# Below it a phone or a board with a battery may switch itself off in the middle of a run.
EMPTY_BATTERY = 5


def refuse(reading: dict[str, Any], bundle: Path) -> None:
    """DeviceError if the memory that is free cannot hold the bundle, or the battery is about to be empty."""
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    available = reading["memory_available"]
    if available is not None and size > available:
        raise DeviceError(
            f"the bundle has {size / 1e6:.0f} MB, and {available / 1e6:.0f} MB of memory are free",
            mend="End other programs on the device, or export a smaller model or a lower precision",
        )
    battery = reading["battery"] or {}
    level = battery.get("level")
    if level is not None and level < EMPTY_BATTERY and not battery.get("charging"):
        raise DeviceError(f"the battery is at {level} %", mend="Charge the device first")
