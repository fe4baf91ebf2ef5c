"""A virtual Android: Debian's build of the real adbd under qemu, in a root that has no glibc outside /apex.

As on a phone there is mksh as /system/bin/sh, toybox with its many names beside it, no /usr, no Python, and a
shell user without rights outside /data/local/tmp. Debian's toybox and adbd need glibc: it lies within /apex,
where only they look for it.
"""

import json
import os
import shutil
import time
from pathlib import Path

import counter
import emulator
from packages import Archive, run, unpack
from state import Process, UnavailableError, VirtualDeviceError, last_line
from tools import Tools

RELEASE = "trixie"  # the first with adbd
PACKAGES = ("adbd", "busybox-static", "mksh", "toybox")
SHELL_UID = 2000
CORES = 4
ANSWER_SECONDS = 60.0
_APEX = "apex/com.android.runtime"
# What toybox has on Android and not in Debian's build of it.
_FROM_BUSYBOX = ("bc", "dd", "diff", "expr", "getopt", "gzip", "more", "tr", "traceroute", "vi")
_PROPERTIES = {
    "ro.board.platform": "virtual",
    "ro.build.fingerprint": "edgeplm/virtual/virtual:14/UP1A/1:user/release-keys",
    "ro.build.type": "user",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.hardware": "virtual",
    "ro.kernel.qemu": "1",
    "ro.product.brand": "EdgePLM",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.cpu.abilist": "arm64-v8a",
    "ro.product.device": "virtual",
    "ro.product.manufacturer": "EdgePLM",
    "ro.product.model": "Virtual Android",
    "ro.product.name": "virtual",
    "ro.serialno": "VIRTUAL0001",
    "ro.soc.manufacturer": "QEMU",
    "ro.soc.model": "Cortex-A76",
    "sys.boot_completed": "1",
}
_GETPROP = """#!/system/bin/sh
if [ $# = 0 ]; then exec sed 's/^\\([^=]*\\)=\\(.*\\)$/[\\1]: [\\2]/' /system/build.prop; fi
while IFS='=' read -r name value; do
    if [ "$name" = "$1" ]; then echo "$value"; exit 0; fi
done < /system/build.prop
echo "$2"
"""
_DUMPSYS = """#!/system/bin/sh
case "$1" in
battery) cat /system/etc/virtual/battery ;;
thermalservice) cat /system/etc/virtual/thermalservice ;;
*) echo "Can't find service: $1" ;;
esac
"""
_BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3481000
  status: 2
  health: 2
  present: true
  level: 87
  scale: 100
  voltage: 4213
  temperature: 285
  technology: Li-ion
"""
_THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 0
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 1
\tkilled: false
\tbroadcasts count: -1
Thermal Status: 0
Cached temperatures:
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=36.1, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=28.5, mType=2, mName=battery, mStatus=0}
\tTemperature{mValue=33.4, mType=3, mName=skin, mStatus=0}
"""
_PM = """#!/system/bin/sh
# No app can be installed here.
case "$1" in
list) exit 0 ;;
path) exit 1 ;;
*) echo "Error: unknown command '$1'" >&2; exit 255 ;;
esac
"""
_AM = """#!/system/bin/sh
echo "Error type 3" >&2
echo "Error: Activity class does not exist." >&2
exit 1
"""


def build(folder: Path, archive: Archive, helper: Tools) -> None:
    """Make the device's root in `folder`/root."""
    root = folder / "root"
    unpacked = folder / "unpacked"
    archive.prepare()
    unpack(archive.fetch(PACKAGES), unpacked)
    for name in (
        "system/bin",
        "system/etc/virtual",
        "data/local/tmp",
        "dev",
        "proc",
        "sys",
        _APEX,
    ):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("system/bin")
    (root / "etc").symlink_to("system/etc")
    tools = root / "system/bin"
    shutil.copy(unpacked / "usr/lib/aarch64-linux-musl/bin/mksh", tools / "sh")
    shutil.copy(unpacked / "usr/bin/busybox", tools / "busybox")
    helper.install(unpacked / "usr/bin/toybox", unpacked, root / _APEX, f"/{_APEX}")
    (root / _APEX / "toybox").rename(tools / "toybox")
    adbd = unpacked / "usr/lib/android-sdk/platform-tools/adbd"
    helper.copy_libraries(adbd, unpacked, root / _APEX)
    shutil.copy(adbd, root / _APEX / "adbd")
    for name in _toybox_names(unpacked):
        (tools / name).symlink_to("toybox")
    for name in _FROM_BUSYBOX:
        (tools / name).symlink_to("busybox")
    scripts = {"getprop": _GETPROP, "dumpsys": _DUMPSYS, "pm": _PM, "am": _AM}
    for name, script in scripts.items():
        (tools / name).write_text(script, encoding="utf-8")
        os.chmod(tools / name, 0o755)
    counter.install(root, helper)
    properties = "".join(f"{name}={value}\n" for name, value in _PROPERTIES.items())
    files = {
        "system/build.prop": properties,
        "system/etc/virtual/battery": _BATTERY,
        "system/etc/virtual/thermalservice": _THERMAL,
        # Android's C library knows its users; Debian's toybox looks for them here.
        "system/etc/passwd": f"root:x:0:0::/:/bin/sh\nshell:x:{SHELL_UID}:{SHELL_UID}::/:/bin/sh\n",
        "system/etc/group": f"root:x:0:\nshell:x:{SHELL_UID}:\n",
        **emulator.processor(CORES),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    for path in ("data/local", "data/local/tmp"):
        os.chown(root / path, SHELL_UID, SHELL_UID)
        os.chmod(root / path, 0o771)
    (folder / "cpuinfo").write_text(emulator.cpuinfo(CORES), encoding="utf-8")
    shutil.rmtree(unpacked)


def configure(folder: Path, port: int) -> None:
    """Write the first process's configuration: adbd as the shell user, listening on `port`."""
    # Debian's patchelf spoils adbd, which is why its loader is told where the libraries are.
    adbd = [f"/{_APEX}/ld.so", "--library-path", f"/{_APEX}", f"/{_APEX}/adbd"]
    configuration = {
        "root": str(folder / "root"),
        "replaced": {},
        "covered": {"proc/cpuinfo": str(folder / "cpuinfo")},
        "command": ["/usr/sbin/chroot", f"--userspec={SHELL_UID}:{SHELL_UID}", "/mnt", *adbd],
        "environment": {
            "ADBD_PORT": str(port),
            "QEMU_CPU": emulator.CPU,
            "PATH": "/system/bin",
            "ANDROID_ROOT": "/system",
            "ANDROID_DATA": "/data",
            "HOME": "/",
        },
    }
    (folder / "init.json").write_text(json.dumps(configuration, indent=1), encoding="utf-8")


def server_environment(folder: Path, port: int) -> dict[str, str]:
    """What gives the device an adb server of its own: port, keys, files; it looks for no emulators."""
    return {
        "ANDROID_ADB_SERVER_PORT": str(port),
        "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554",
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }


def answer(folder: Path, port: int, environment: dict[str, str], process: Process) -> str:
    """What the device says to `uname -m`, once adb's server has reached it."""
    late = time.monotonic() + ANSWER_SECONDS
    device = f"127.0.0.1:{port}"
    env = {**os.environ, **environment}
    while True:
        try:
            run("adb", "connect", device, env=env)
            return run("adb", "-s", device, "shell", "uname", "-m", env=env).strip()
        except UnavailableError as fault:
            if not process.alive or time.monotonic() > late:
                raise VirtualDeviceError(
                    f"it does not answer ({fault}; {last_line(folder / 'log')})"
                ) from fault
            time.sleep(0.3)


def _toybox_names(unpacked: Path) -> list[str]:
    """The commands of an unpacked toybox, as it lists them itself."""
    loader = next((unpacked / "usr/lib/aarch64-linux-gnu").glob("ld-linux*"))
    libraries = ["--library-path", str(loader.parent)]
    return run("qemu-aarch64-static", str(loader), *libraries, str(unpacked / "usr/bin/toybox")).split()
