"""The chip: its name, its cores by cluster, and whether it is one or only played by another.

Sources: Documentation/devicetree, Documentation/ABI/testing/sysfs-devices-soc, Android's system properties.
"""

from pathlib import Path

from runtimes.facts import Cluster, android_properties, core_folders, core_names, read_number, read_text, said

MARKS = ("etc/edgeplm-emulated",)  # a file that says: this device is emulated


def soc(root: Path) -> str | None:
    """The system on chip, by Android's properties, the kernel's soc device or the device tree."""
    properties = android_properties(root)
    for names in (("ro.soc.manufacturer", "ro.soc.model"), ("ro.board.platform",), ("ro.hardware",)):
        if all(properties.get(name) for name in names):
            return " ".join(properties[name] for name in names)
    for name in ("machine", "family"):
        if text := read_text(root / "sys/devices/soc0" / name):
            return text
    # From the most to the least specific: the board first, the chip last.
    compatible = (read_text(root / "proc/device-tree/compatible") or "").split("\0")
    return compatible[-1].replace(",", " ") or None


def clusters(root: Path) -> list[Cluster]:
    """Neighbouring cores of the same kind and highest frequency, from the kernel's first core on."""
    names = core_names(root)
    folders = core_folders(root)
    found: list[Cluster] = []
    for number in range(max(len(names), len(folders))):
        name = names[number] if number < len(names) else None
        khz = read_number(folders[number] / "cpufreq/cpuinfo_max_freq") if number < len(folders) else None
        mhz = khz / 1000 if khz else None
        if found and (found[-1].cpu, found[-1].max_mhz) == (name, mhz):
            found[-1] = Cluster(name, found[-1].cores + 1, mhz)
        else:
            found.append(Cluster(name, 1, mhz))
    return found


def emulated(root: Path, machine: str) -> bool:
    """Whether the device says that another processor plays it, or QEMU is to be seen.

    A device says so by a file /etc/edgeplm-emulated, or `emulated` in EdgePLM's folder. QEMU's own boards
    have their name in the device tree or DMI, its generic x86 processors in /proc/cpuinfo; QEMU for programs
    shows an x86 /proc/cpuinfo under an Arm machine. A virtual machine that runs on the host's own processor
    (KVM) is not emulated.
    """
    if said(root, "emulated") or any((root / mark).exists() for mark in MARKS):
        return True
    properties = android_properties(root)
    if "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu")):
        return True
    product = read_text(root / "sys/class/dmi/id/product_name") or ""
    if "QEMU" in product and "KVM" not in product:
        return True
    if "linux,dummy-virt" in (read_text(root / "proc/device-tree/compatible") or "").split("\0"):
        return True
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    if "QEMU Virtual CPU" in cpuinfo or "QEMU TCG CPU" in cpuinfo:
        return True
    return machine.startswith(("aarch64", "arm")) and "vendor_id" in cpuinfo and "CPU part" not in cpuinfo
