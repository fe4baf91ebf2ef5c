"""The first process of a virtual device, in mount and process namespaces of its own.

`unshare --mount --pid --fork --kill-child python init.py CONFIGURATION.json`: it mounts what the device
needs, runs the device's server, and starts it again whenever it ends, as init does on a real device. With it
end all processes of the device and all its mounts, whatever the reason; nothing of it can be left behind.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

MOUNTED = Path("/mnt")  # owned by root on every Debian, as sshd asks of a ChrootDirectory and all above it
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
RESPAWN_SECONDS = 1.0


def mount(*arguments: object) -> None:
    """Run mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def populate(root: Path, replaced: dict[str, str], covered: dict[str, str]) -> None:
    """Mount the device's root and its /proc and /dev. Files of `covered` lie over those of the device,
    files of `replaced` over this machine's own, for this device's processes only."""
    mount("--bind", root, MOUNTED)
    mount("-t", "proc", "proc", MOUNTED / "proc")
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", MOUNTED / "dev")
    for name in DEVICES:
        (MOUNTED / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", MOUNTED / "dev" / name)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (MOUNTED / "dev" / name).symlink_to(target)
    (MOUNTED / "dev/pts").mkdir()
    mount("--bind", "/dev/pts", MOUNTED / "dev/pts")
    (MOUNTED / "dev/ptmx").symlink_to("pts/ptmx")
    (MOUNTED / "dev/shm").mkdir(mode=0o1777)
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    Path("/run/sshd").mkdir()
    for number, (target, source) in enumerate(covered.items()):
        # By way of another file system: df would take the mount for the one that the device's files are on.
        copy = Path(f"/run/covered-{number}")
        shutil.copy(source, copy)
        mount("--bind", copy, MOUNTED / target)
    for target, source in replaced.items():
        mount("--bind", source, target)


def keep_running(command: list[str], environment: dict[str, str]) -> None:
    """Run `command` for ever, and take leave of every orphan that comes to this process."""
    while True:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        while os.wait()[0] != server.pid:
            pass
        print(f"{command[0]} ended; starting it again", flush=True)
        time.sleep(RESPAWN_SECONDS)


def main() -> None:
    """Become the device that the configuration describes."""
    configuration = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    populate(Path(configuration["root"]), configuration["replaced"], configuration["covered"])
    keep_running(configuration["command"], configuration["environment"])


if __name__ == "__main__":
    main()
