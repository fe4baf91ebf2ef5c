"""What a machine is: read from /proc, /sys and `platform`. Standard library only; it runs on the device."""

import dataclasses
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# MIDR part numbers of implementer 0x41 (Arm Ltd.): /proc/cpuinfo names no model on 64-bit Arm.
_ARM_PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}
_ROOT = Path("/")


# What a device's programs said, in the folder that stands for its /: see runtimes.devices.snapshot.
_SAID = "edgeplm"


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind and one highest frequency, in MHz."""

    cpu: str | None
    cores: int
    max_mhz: float | None


@dataclass(frozen=True)
class Facts:
    """A machine, as far as it tells; None where it does not. Memory in bytes, frequency in MHz.

    The fields with a default are filled by `runtimes.survey`. Those from `free_bytes` on are of a moment:
    `temperature` is the highest one in degrees Celsius, `runtimes` has for each runtime "ready" or what
    stands in its way. `emulated`: another processor plays this one, so that times mean nothing.
    """

    machine: str
    board: str | None
    cpu: str | None
    cores_physical: int | None
    cores_logical: int | None
    max_mhz: float | None
    memory_bytes: int | None
    kernel: str
    os: str | None
    soc: str | None = None
    clusters: list[Cluster] = field(default_factory=list)
    emulated: bool = False
    free_bytes: int | None = None
    temperature: float | None = None
    governors: list[str] = field(default_factory=list)
    runtimes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def machine_facts(root: Path = _ROOT) -> Facts:
    """The facts of this machine; with another `root` than `/`, those of the device whose files lie there."""
    here = root == _ROOT
    return Facts(
        machine=platform.machine() if here else said(root, "machine") or "unknown",
        board=_board(root),
        cpu=_cpu_model(root),
        cores_physical=_physical_cores(root),
        cores_logical=os.cpu_count() if here else len(core_names(root)) or len(core_folders(root)) or None,
        max_mhz=_max_mhz(root),
        memory_bytes=_memory_bytes(root),
        kernel=f"{platform.system()} {platform.release()}" if here else said(root, "kernel") or "unknown",
        os=_os_name(root),
    )


def read_text(path: Path) -> str | None:
    """The stripped text of a /proc or /sys file; None where it is missing, unreadable or empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def read_number(path: Path, base: int = 10) -> int | None:
    """The whole number that a /sys file holds, or None."""
    text = read_text(path)
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None


def kernel_table(path: Path) -> dict[str, int]:
    """The `Name: number [kB]` lines of a /proc file; kB are turned into bytes."""
    table: dict[str, int] = {}
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            table[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return table


def kernel_words(path: Path) -> dict[str, str]:
    """The `Name: words` lines of a /proc file, as text."""
    lines = (line.partition(":") for line in (read_text(path) or "").splitlines())
    return {name: words.strip() for name, _, words in lines}


def core_folders(root: Path = _ROOT) -> list[Path]:
    """The /sys folders of the cores, in the order of their numbers."""
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("cpu")))


def said(root: Path, name: str) -> str | None:
    """What a program of the device said, where `root` is a snapshot of it."""
    return read_text(root / _SAID / name)


def android_properties(root: Path) -> dict[str, str]:
    """Android's properties, as `getprop` lists them; none elsewhere."""
    lines = (said(root, "properties") or "").splitlines()
    pairs = (line.removeprefix("[").removesuffix("]").partition("]: [") for line in lines)
    return {name: value for name, found, value in pairs if found}


def core_names(root: Path = _ROOT) -> list[str | None]:
    """The name of each online core, in the order of /proc/cpuinfo; None where it has none."""
    names: list[str | None] = []
    implementer = ""
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = (side.strip() for side in line.partition(":"))
        if name == "processor" and value.isdigit():
            names.append(None)
        elif name == "CPU implementer":
            implementer = value
        elif names and name == "model name" and value:
            names[-1] = value
        elif names and name == "CPU part" and names[-1] is None:
            known = _ARM_PARTS.get(_hexadecimal(value)) if implementer == "0x41" else None
            names[-1] = known or f"implementer {implementer} part {value}"
    return names


def _hexadecimal(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return -1


def core_list(path: Path) -> list[int] | None:
    """The core numbers in a /sys or /proc list such as `0-3,6` or `0 1 2 3`; None where there is none."""
    return parse_core_list(read_text(path))


def parse_core_list(text: str | None) -> list[int] | None:
    """The core numbers that a text such as `0-3,6` names (Documentation/admin-guide/cputopology)."""
    cores: list[int] = []
    for part in (text or "").replace(",", " ").split():
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return None
        cores.extend(range(int(first), int(last or first) + 1))
    return cores or None


def _board(root: Path) -> str | None:
    for place in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        if name := read_text(root / place):
            return name
    properties = android_properties(root)
    names = (properties.get("ro.product.manufacturer"), properties.get("ro.product.model"))
    return " ".join(filter(None, names)) or None


def _cpu_model(root: Path) -> str | None:
    names = dict.fromkeys(filter(None, core_names(root)))
    return " + ".join(names) or (platform.processor() if root == _ROOT else None) or None


def _physical_cores(root: Path) -> int | None:
    cores = set()
    for folder in core_folders(root):
        package = read_text(folder / "topology/physical_package_id")
        core = read_text(folder / "topology/core_id")
        if package is not None and core is not None:
            # Clusters of one Arm SoC may count their cores from 0 again.
            cores.add((package, read_text(folder / "topology/cluster_id"), core))
    return len(cores) or None


def _max_mhz(root: Path) -> float | None:
    found = [read_number(folder / "cpufreq/cpuinfo_max_freq") for folder in core_folders(root)]
    return max((khz / 1000 for khz in found if khz), default=None)


def _memory_bytes(root: Path) -> int | None:
    total = kernel_table(root / "proc/meminfo").get("MemTotal")
    if total is not None or root != _ROOT or not hasattr(os, "sysconf"):
        return total
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _os_name(root: Path) -> str | None:
    properties = android_properties(root)
    if release := properties.get("ro.build.version.release"):
        return f"Android {release} (API {properties.get('ro.build.version.sdk', 'unknown')})"
    for line in (read_text(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.removeprefix("PRETTY_NAME=").strip("\"'")
    return (platform.platform() if root == _ROOT else None) or None
