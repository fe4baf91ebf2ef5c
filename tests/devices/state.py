"""What is up: one JSON file for all virtual devices, and processes that are stopped by their number."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

HOME_VARIABLE = "EDGEPLM_DEVICES_HOME"
STOP_SECONDS = 10.0
# adb itself looks for emulators on these ports.
EMULATOR_PORTS = range(5554, 5587)


class VirtualDeviceError(Exception):
    """Something is wrong with a virtual device; the message is one line."""


class UnavailableError(VirtualDeviceError):
    """The virtual devices cannot be had on this machine; the message is one line and says why."""


@dataclass
class Process:
    """A process of ours: number and time of birth, so that a number that was given out again is not ours."""

    pid: int
    born: int

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return _born(self.pid) == self.born

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if not self.alive:
            return
        os.kill(self.pid, signal.SIGKILL)
        late = time.monotonic() + STOP_SECONDS
        while self.alive:
            if time.monotonic() > late:
                raise VirtualDeviceError(f"process {self.pid} does not end")
            time.sleep(0.02)


@dataclass
class State:
    """What `up` has made: processes and ports by name, devices as `edgeplm --device` takes them, and the
    `environment` that programs need to reach them."""

    processes: dict[str, Process] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)


def home() -> Path:
    """The folder of the virtual devices: EDGEPLM_DEVICES_HOME, or `devices` in the user's cache."""
    if chosen := os.environ.get(HOME_VARIABLE):
        return Path(chosen).resolve()
    cache = os.environ.get("EDGEPLM_CACHE") or Path.home() / ".cache/edgeplm"
    return Path(cache).resolve() / "devices"


def load(folder: Path) -> State:
    """The state in `folder`; an empty one where nothing is up."""
    try:
        document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return State()
    document["processes"] = {name: Process(**found) for name, found in document["processes"].items()}
    return State(**document)


def save(state: State, folder: Path) -> None:
    """Write `state` into `folder`."""
    fresh = folder / "state.json.new"
    fresh.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    fresh.replace(folder / "state.json")


def start(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Process:
    """Start a process that outlives this program; what it says goes into `log`."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    return Process(process.pid, _born(process.pid) or 0)


def last_line(log: Path) -> str:
    """The last thing that a process said."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return f"{log}: {lines[-1] if lines else 'empty'}"


def become_root() -> None:
    """UnavailableError for everybody but root: mounts, and files of several users."""
    if os.geteuid() != 0:
        raise UnavailableError("only root can make them; try: sudo make devices-up")


def free_port() -> int:
    """A free TCP port of the loopback interface that adb does not take for an emulator's."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in EMULATOR_PORTS:
            return port


def _born(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None where there is none, or only its remains."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
