"""A virtual Android: Debian's build of the real adbd under qemu, in a root that has no glibc outside /apex.

As on a phone there is mksh as /system/bin/sh, one program with many names beside it (busybox for toybox), no
/usr, no Python, and a shell user without rights outside /data/local/tmp.
"""

import json
import os
import shutil
import time
from pathlib import Path

import emulator
from packages import Archive, run, unpack
from state import Process, UnavailableError, VirtualDeviceError, last_line

RELEASE = "trixie"  # the first with adbd
PACKAGES = ("adbd", "busybox-static", "mksh")
SHELL_UID = 2000
CORES = 4
ANSWER_SECONDS = 60.0
_APEX = "apex/com.android.adbd"
_LOADER = "ld-linux-aarch64.so.1"
# Of toybox's commands on Android those that busybox has too.
_COMMANDS = """
[ base64 basename cat chgrp chmod chown cksum clear cmp comm cp cpio cut date dd df diff dirname
dmesg dos2unix du echo egrep env expand expr fallocate false fgrep find flock free fsync getopt grep
groups gunzip gzip head hostname id ifconfig install ionice kill killall ln losetup ls lsof md5sum
mkdir mkfifo mknod mktemp more mount mountpoint mv nc netstat nice nl nohup nproc od paste patch
pgrep pidof ping pkill printenv printf ps pwd readlink realpath renice rev rm rmdir sed seq setsid
sha1sum sha256sum sha512sum sleep sort split stat strings stty sync sysctl tac tail tar taskset tee
test time timeout top touch tr true truncate tty umount uname uniq unlink uptime usleep uudecode
uuencode vi vmstat watch wc which whoami xargs xxd yes zcat
""".split()  # noqa: SIM905 - as a list of quoted words it is unreadable
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


def build(folder: Path, archive: Archive) -> None:
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
        f"{_APEX}/lib64",
    ):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("system/bin")
    (root / "etc").symlink_to("system/etc")
    tools = root / "system/bin"
    shutil.copy(unpacked / "usr/lib/aarch64-linux-musl/bin/mksh", tools / "sh")
    shutil.copy(unpacked / "usr/bin/busybox", tools / "toybox")
    for name in _COMMANDS:
        (tools / name).symlink_to("toybox")
    scripts = {"getprop": _GETPROP, "dumpsys": _DUMPSYS, "pm": _PM, "am": _AM}
    for name, script in scripts.items():
        (tools / name).write_text(script, encoding="utf-8")
        os.chmod(tools / name, 0o755)
    properties = "".join(f"{name}={value}\n" for name, value in _PROPERTIES.items())
    files = {
        "system/build.prop": properties,
        "system/etc/virtual/battery": _BATTERY,
        "system/etc/virtual/thermalservice": _THERMAL,
        "system/etc/edgeplm-emulated": f"qemu-user {emulator.CPU}\n",
        **emulator.processor(CORES),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    _adbd(unpacked, root / _APEX)
    for path in ("data/local", "data/local/tmp"):
        os.chown(root / path, SHELL_UID, SHELL_UID)
        os.chmod(root / path, 0o771)
    (folder / "cpuinfo").write_text(emulator.cpuinfo(CORES), encoding="utf-8")
    shutil.rmtree(unpacked)


def configure(folder: Path, port: int) -> None:
    """Write the first process's configuration: adbd as the shell user, listening on `port`."""
    apex = f"/{_APEX}"
    adbd = [f"{apex}/lib64/{_LOADER}", "--library-path", f"{apex}/lib64", f"{apex}/bin/adbd"]
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


def _adbd(unpacked: Path, apex: Path) -> None:
    """adbd and every library that it needs, glibc's loader among them, into a folder of their own."""
    (apex / "bin").mkdir()
    shutil.copy(unpacked / "usr/lib/android-sdk/platform-tools/adbd", apex / "bin/adbd")
    libraries = unpacked / "usr/lib/aarch64-linux-gnu"
    for path in (*libraries.glob("*.so*"), *libraries.glob("android/*.so*")):
        if path.is_file():
            shutil.copy(path, apex / "lib64" / path.name)
