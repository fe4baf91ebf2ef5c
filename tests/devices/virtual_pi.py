"""A virtual Raspberry Pi 5: Debian's arm64 userland under qemu, with this machine's real sshd at its door."""

import json
import os
import time
from pathlib import Path

import counter
import emulator
from packages import Archive, run, unpack
from state import Process, UnavailableError, VirtualDeviceError, last_line
from tools import Tools

# What Raspberry Pi OS Lite has of what a benchmark touches.
PACKAGES = (
    "base-files", "bash", "coreutils", "dash", "diffutils", "findutils", "gawk", "grep", "gzip", "hostname",
    "libc-bin", "libgomp1", "libstdc++6", "ncurses-base", "procps", "python3", "sed", "tar", "util-linux",
)  # fmt: skip
HOST = "virtual-pi"
USER = "pi"
UID = 1000
CORES = 4
MODEL = "Raspberry Pi 5 Model B Rev 1.0"
ANSWER_SECONDS = 30.0
_VCGENCMD = """#!/bin/sh
case "$1" in
get_throttled) echo throttled=0x0 ;;
measure_temp) echo "temp=48.3'C" ;;
*) echo "vcgencmd: unknown command $1" >&2; exit 1 ;;
esac
"""


def build(folder: Path, archive: Archive, helper: Tools) -> None:
    """Make the device's root in `folder`/root."""
    root = folder / "root"
    archive.prepare()
    unpack(archive.fetch(PACKAGES), root)
    for name in ("proc", "dev", "sys", "tmp", "run", f"home/{USER}"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "bin/sh").unlink(missing_ok=True)
    (root / "bin/sh").symlink_to("dash")
    os.chmod(root / "tmp", 0o1777)
    os.chown(root / f"home/{USER}", UID, UID)
    files = {
        "etc/passwd": f"root:x:0:0:root:/root:/bin/bash\n{USER}:x:{UID}:{UID}::/home/{USER}:/bin/bash\n",
        "etc/group": f"root:x:0:\n{USER}:x:{UID}:\n",
        "etc/hostname": f"{HOST}\n",
        "usr/bin/vcgencmd": _VCGENCMD,
        "sys/firmware/devicetree/base/model": MODEL + "\0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48300\n",
        **emulator.processor(CORES),
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    os.chmod(root / "usr/bin/vcgencmd", 0o755)
    (folder / "cpuinfo").write_text(emulator.cpuinfo(CORES, MODEL), encoding="utf-8")
    counter.install(root, helper)
    _keys(folder, root)


def configure(folder: Path, port: int) -> None:
    """Write sshd's, ssh's and the first process's configuration for `port`."""
    own = {
        "passwd": f"{USER}:x:{UID}:{UID}::/home/{USER}:/bin/bash\n",
        "group": f"{USER}:x:{UID}:\n",
        "shadow": f"{USER}:*:20000:0:99999:7:::\n",
    }
    for name, line in own.items():
        # This machine's own users stay, sshd's among them; ours is known to the device's sshd only.
        theirs = Path("/etc", name).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [text for text in theirs if not text.startswith(f"{USER}:")]
        (folder / name).write_text("".join(kept) + line, encoding="utf-8")
    os.chmod(folder / "shadow", 0o600)
    (folder / "sshd_config").write_text(
        f"""Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /mnt/etc/ssh/authorized_keys
AllowUsers {USER}
ChrootDirectory /mnt
SetEnv QEMU_CPU={emulator.CPU}
Subsystem sftp internal-sftp
MaxStartups 100
MaxSessions 100
PrintMotd no
PrintLastLog no
""",
        encoding="utf-8",
    )
    host_key = (folder / "host_key.pub").read_text(encoding="utf-8").split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key[:2])}\n", encoding="utf-8")
    (folder / "ssh_config").write_text(
        f"""Host {HOST}
  HostName 127.0.0.1
  Port {port}
  User {USER}
  IdentityFile {folder}/client_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
""",
        encoding="utf-8",
    )
    configuration = {
        "root": str(folder / "root"),
        "replaced": {f"/etc/{name}": str(folder / name) for name in own},
        "covered": {"proc/cpuinfo": str(folder / "cpuinfo")},
        "command": ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")],
        "environment": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    }
    (folder / "init.json").write_text(json.dumps(configuration, indent=1), encoding="utf-8")


def answer(folder: Path, process: Process) -> str:
    """What the device says to `uname -m`, once it answers."""
    late = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return run("ssh", "-F", str(folder / "ssh_config"), HOST, "uname -m").strip()
        except UnavailableError as fault:
            if not process.alive or time.monotonic() > late:
                raise VirtualDeviceError(
                    f"it does not answer ({fault}; {last_line(folder / 'log')})"
                ) from fault
            time.sleep(0.2)


def _keys(folder: Path, root: Path) -> None:
    for name in ("host_key", "client_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "virtual", "-f", str(folder / name))
    (root / "etc/ssh").mkdir(parents=True, exist_ok=True)
    (root / "etc/ssh/authorized_keys").write_text(
        (folder / "client_key.pub").read_text(encoding="utf-8"), encoding="utf-8"
    )
