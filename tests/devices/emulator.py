"""arm64 programs on this machine: the kernel hands them to qemu by binfmt_misc, as on any Debian with
qemu-user-static."""

import subprocess
from pathlib import Path

from packages import UnavailableError

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_LINES = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
_NAME = "qemu-aarch64"
CPU = "cortex-a76"  # the core of a Raspberry Pi 5
_FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)


def enable(folder: Path) -> None:
    """Let the kernel run arm64 programs; what this has to change is noted in `folder` for `disable`."""
    if not (_BINFMT / "register").exists():
        done = subprocess.run(
            ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UnavailableError(f"binfmt_misc cannot be mounted: {done.stderr.strip()}")
        (folder / "binfmt-mounted").touch()
    if any(_handles_arm64(entry) for entry in _BINFMT.iterdir()):
        return
    line = _LINES.read_text(encoding="ascii").strip()
    # Debian's own line; F: the interpreter is opened now and so is found from within any root.
    _register(line)
    (folder / "binfmt-registered").touch()


def disable(folder: Path) -> None:
    """Undo what `enable` changed."""
    if (folder / "binfmt-registered").exists():
        if (_BINFMT / _NAME).exists():
            (_BINFMT / _NAME).write_text("-1", encoding="ascii")
        (folder / "binfmt-registered").unlink()
    if (folder / "binfmt-mounted").exists():
        subprocess.run(["umount", str(_BINFMT)], capture_output=True, check=False)
        (folder / "binfmt-mounted").unlink()


def processor(cores: int) -> dict[str, str]:
    """Files below /sys of that many Cortex-A76 cores; without the first two XNNPACK finds no processor."""
    folder = "sys/devices/system/cpu"
    files = {f"{folder}/{name}": f"0-{cores - 1}\n" for name in ("possible", "present", "online")}
    for core in range(cores):
        files |= {
            f"{folder}/cpu{core}/{name}": f"{value}\n"
            for name, value in {
                "topology/physical_package_id": "0",
                "topology/core_id": str(core),
                "cpufreq/cpuinfo_max_freq": "2400000",
                "cpufreq/cpuinfo_min_freq": "1500000",
                "cpufreq/scaling_max_freq": "2400000",
                "cpufreq/scaling_cur_freq": "2400000",
                "cpufreq/scaling_governor": "performance",
                "regs/identification/midr_el1": "0x00000000414fd0b1",
            }.items()
        }
    return files


def cpuinfo(cores: int, model: str | None = None) -> str:
    """/proc/cpuinfo of Cortex-A76 cores, which libraries know by their part number; `model` as a Raspberry Pi
    has it."""
    blocks = [
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {_FEATURES}\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n"
        for core in range(cores)
    ]
    tail = [f"Revision\t: c04170\nSerial\t\t: 0000000000000000\nModel\t\t: {model}\n"] if model else []
    return "\n".join([*blocks, *tail])


def _register(line: str) -> None:
    try:
        # One write of the whole line: the kernel takes it as one request.
        with open(_BINFMT / "register", "wb", buffering=0) as file:
            file.write(line.encode("ascii"))
    except OSError as fault:
        raise UnavailableError(f"binfmt_misc refuses {_LINES} ({fault.strerror})") from fault


def _handles_arm64(entry: Path) -> bool:
    if entry.name in ("register", "status"):
        return False
    lines = entry.read_text(encoding="ascii", errors="replace").splitlines()
    flags = next((line.removeprefix("flags: ") for line in lines if line.startswith("flags: ")), "")
    magic = next((line.removeprefix("magic ") for line in lines if line.startswith("magic ")), "")
    # 64-bit ELF of machine 0xb7; without F the interpreter would not be found from within a root.
    return "enabled" in lines and "F" in flags and magic.startswith("7f454c460201") and magic.endswith("b700")
