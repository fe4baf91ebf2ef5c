"""A virtual device as a test sees it: from outside, as any device, and from within, to bring faults about."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packages import run
from state import State

from runtimes.devices import parse_device
from runtimes.devices.remote import RemoteDevice

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class VirtualDevice:
    """`name` as `--device` takes it; `below` is the folder that EdgePLM's own lies in."""

    kind: str
    name: str
    root: Path
    below: str
    folder: str
    init: int
    environment: dict[str, str]

    @property
    def files(self) -> Path:
        """EdgePLM's folder on the device, as this machine sees it."""
        return self.root / self.below.lstrip("/") / self.folder

    def open(self) -> RemoteDevice:
        """The device, through its real client program."""
        device = parse_device(self.name)
        if not isinstance(device, RemoteDevice):
            raise TypeError(f"{self.name} is not reached through a shell")
        return device

    def within(self, *command: str) -> str:
        """Run one of this machine's programs in the device's namespaces, where its root is /mnt."""
        return run("nsenter", f"--target={self.init}", "--mount", "--pid", *command)

    @contextmanager
    def small_disk(self, megabytes: int) -> Iterator[None]:
        """A file system of that size, and empty, over the folder that EdgePLM's own lies in."""
        place = f"/mnt{self.below}"
        owner = (self.root / self.below.lstrip("/")).stat()
        options = f"size={megabytes}m,uid={owner.st_uid},gid={owner.st_gid},mode=0771"
        self.within("mount", "-t", "tmpfs", "-o", options, "tmpfs", place)
        try:
            yield
        finally:
            self.within("umount", "--lazy", place)

    def processes(self, word: str) -> list[int]:
        """Processes of the device whose command line has `word`."""
        return [pid for pid in _descendants(self.init) if word in _command_line(pid)]

    def cut(self) -> None:
        """Kill sshd with its sessions, or adbd: what they started lives on, and init starts them again."""
        server = _children(self.init)
        sessions = [pid for pid in self.processes("sshd") if pid not in server]
        for pid in [*server, *sessions]:
            if self.kind == "android" or "sshd" in _command_line(pid):
                os.kill(pid, signal.SIGKILL)

    def back(self) -> None:
        """Wait until the device answers again."""

        def answers() -> bool:
            environment = {**os.environ, **self.environment}
            if self.kind == "android":
                serial = self.name.removeprefix("adb:")
                subprocess.run(["adb", "connect", serial], env=environment, capture_output=True, check=False)
                command = ["adb", "-s", serial, "shell", "true"]
            else:
                config = self.environment["EDGEPLM_SSH_CONFIG"]
                command = ["ssh", "-F", config, self.name.removeprefix("ssh://"), "true"]
            return not subprocess.run(command, env=environment, capture_output=True, check=False).returncode

        until(answers)


def virtual_device(kind: str, home: Path, state: State) -> VirtualDevice:
    """The device `kind` that `state` says is up."""
    below, folder = {"pi": ("/home/pi", ".edgeplm"), "android": ("/data/local/tmp", "edgeplm")}[kind]
    init = _children(state.processes[kind].pid)[0]
    return VirtualDevice(
        kind, state.devices[kind], home / kind / "root", below, folder, init, state.environment
    )


def until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait for `condition`; TimeoutError if it does not come about."""
    late = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > late:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    below = _children(pid)
    return below + [deeper for child in below for deeper in _descendants(child)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
