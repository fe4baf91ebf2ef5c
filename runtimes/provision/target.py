"""What a device is, as far as an environment for it is concerned: asked of its shell, needing no Python."""

from dataclasses import dataclass

from runtimes.devices.shell import Shell
from runtimes.provision.pins import GLIBC, MACHINES, PYTHONS, Machine

STEP = "look at the device"
_TOOLS = ("tar", "gzip")  # besides those of runtimes.devices.store
_MARK = "edgeplm:"
_WIDE_SYSTEM = (
    "If it is a 64-bit board, install the 64-bit system (on a Raspberry Pi, the image whose name has arm64)"
)

# A login's greeting may stand among the lines, so that ours are marked.
_PROBE = r"""
say() { printf '\nedgeplm:%s=%s\n' "$1" "$2"; }
code=$1; shift
say system "$(uname -s)"
say machine "$(uname -m)"
say android "$(getprop ro.build.version.release 2>/dev/null)"
say libc "$( (getconf GNU_LIBC_VERSION || ldd --version) 2>&1 | head -n 1)"
for tool in "$@"; do command -v "$tool" >/dev/null 2>&1 || say missing "$tool"; done
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$python" >/dev/null 2>&1 && say python "$("$python" -c "$code" 2>/dev/null)"
done
"""

# Prints something only in a Python that can take the wheels: 64-bit CPython, built for the GNU C library.
_PYTHON = """
import ctypes, json, os, struct, sys
if sys.implementation.name == "cpython" and not sys.abiflags and struct.calcsize("P") == 8:
    print("%d.%d" % sys.version_info[:2], os.confstr("CS_GNU_LIBC_VERSION"))
"""


@dataclass(frozen=True)
class Target:
    """A device that can be prepared.

    `libc` is as the device names it; `python` is the version of a Python there that fits (None: it needs one
    of its own); `android` is Android's release.
    """

    machine: Machine
    libc: str
    python: str | None
    android: str | None


def look(shell: Shell) -> Target:
    """Ask the device. Raises DeviceError for what cannot be prepared: another system than Linux, a 32-bit or
    unknown processor, a tool that is missing."""
    output = shell.run(_PROBE, _PYTHON, *_TOOLS, step=STEP)
    said: dict[str, list[str]] = {}
    for line in output.text.splitlines():
        if line.startswith(_MARK):
            name, _, value = line.removeprefix(_MARK).partition("=")
            said.setdefault(name, []).append(value.strip())
    first = {name: values[0] for name, values in said.items()}
    machine = _machine(shell, first.get("system", ""), first.get("machine", ""))
    if missing := said.get("missing"):
        raise shell.fault(
            STEP, f"it has no {', '.join(missing)}", "Install what is missing, for example with busybox"
        )
    pythons = [python for text in said.get("python", []) if (python := _fitting(text))]
    return Target(
        machine=machine,
        libc=first.get("libc", ""),
        python=pythons[0] if pythons and not first.get("android") else None,
        android=first.get("android") or None,
    )


def _machine(shell: Shell, system: str, name: str) -> Machine:
    if system != "Linux":
        raise shell.fault(
            STEP, f"it runs {system or 'an unknown system'}", "Linux and Android can be prepared"
        )
    if name in MACHINES:
        return MACHINES[name]
    narrow = name.startswith(("armv6", "armv7", "armv8l")) or name in ("i686", "i386")
    raise shell.fault(
        STEP,
        f"its processor runs as {name or 'unknown'}; the runtimes exist for {' and '.join(MACHINES)}",
        _WIDE_SYSTEM if narrow else "Use another device",
    )


def _fitting(text: str) -> str | None:
    """The version of a Python that told `3.11 glibc 2.36`, if the wheels run on it."""
    words = text.split()
    if len(words) != 3 or words[0] not in PYTHONS or words[1] != "glibc":
        return None
    try:
        major, minor = (int(number) for number in words[2].split(".")[:2])
    except ValueError:
        return None
    return words[0] if (major, minor) >= GLIBC else None
