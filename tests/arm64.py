"""Programs for aarch64 on this machine: qemu-user with the files of a Cortex-A76, in no need of root.

The kernel hands them to qemu if binfmt_misc is set up, as Debian's qemu-user-static does it.
"""

import platform
from pathlib import Path

import pytest

_BINFMT = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
_CORES = "0-1\n"
# Without them the runtimes read this machine's files and fail: qemu shows them as they are.
_FILES = {
    "sys/devices/system/cpu/possible": _CORES,
    "sys/devices/system/cpu/present": _CORES,
    "sys/devices/system/cpu/online": _CORES,
    "proc/cpuinfo": "\n".join(
        f"processor\t: {core}\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp "
        "cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x4\n"
        "CPU part\t: 0xd0b\nCPU revision\t: 1\n"
        for core in range(2)
    ),
}


def variables(folder: Path) -> dict[str, str]:
    """Environment variables with which aarch64 programs run here; `folder` gets the files that they see.

    Skips the test where nothing can run them.
    """
    if platform.machine() != "aarch64" and not _BINFMT.exists():
        pytest.skip("binfmt_misc has no qemu-aarch64: install qemu-user-static")
    for name, text in _FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return {"QEMU_CPU": "cortex-a76", "QEMU_LD_PREFIX": str(folder)}
