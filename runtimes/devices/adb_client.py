"""Android's own adb client: where it is, which devices its server lists, what its messages mean.

The client starts the server where none runs, as always; ANDROID_ADB_SERVER_PORT and ADB_SERVER_SOCKET name
another one. Client and states: developer.android.com/tools/adb, and docs/ of AOSP's packages/modules/adb.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import DeviceError, printable

Fault = tuple[str, str | None]  # what is wrong, and how to mend it

_ANSWER_SECONDS = 30.0
_LISTED = re.compile(r"(\(no serial number\)|\S+)\s+(no permissions|\S+)(.*)")
# Clients that start the server at the same time get in each other's way.
_server = threading.Lock()

_STATES: dict[str, Fault] = {
    "unauthorized": (
        "the phone has not allowed this computer",
        "Unlock it and accept 'Allow USB debugging?'; if it does not ask, choose 'Revoke USB debugging "
        "authorisations' in its developer options and plug it in again",
    ),
    "authorizing": ("the phone is being asked to allow this computer", "Unlock it and accept"),
    "offline": ("it does not answer adb (offline)", "Plug it in again, or type: adb reconnect offline"),
    "connecting": ("it is still connecting", "Wait a moment, or plug it in again"),
    "no permissions": (
        "this user may not open the phone's USB port (no permissions)",
        "Install your system's udev rules for Android (Debian: android-sdk-platform-tools-common), add "
        "yourself to the group plugdev, and plug the phone in again",
    ),
    "recovery": ("it is in recovery, where nothing can be measured", "Start Android: adb reboot"),
    "sideload": ("it is waiting for an update (sideload)", "Start Android: adb reboot"),
    "rescue": ("it is in rescue mode", "Start Android: adb reboot"),
    "bootloader": ("it is in its bootloader", "Start Android: fastboot reboot"),
}

TOO_OLD: Fault = (
    "its Android is older than 7: adb there tells neither exit codes nor errors",
    "Use a newer phone",
)
_SAYINGS: tuple[tuple[str, Fault], ...] = (
    (r"device (still )?unauthorized", _STATES["unauthorized"]),
    (r"device offline", _STATES["offline"]),
    (r"(insufficient|no) permissions", _STATES["no permissions"]),
    (r"only supports allocating a pty|doesn't support PTY args", TOO_OLD),
    (
        r"doesn't match this client",
        (
            "two versions of adb run on this machine and end each other's server",
            "Use one of them: look which are installed with: which -a adb",
        ),
    ),
)


@dataclass(frozen=True)
class AdbDevice:
    """A device as adb's server lists it; only the state "device" can be used."""

    serial: str
    state: str
    model: str | None = None

    @property
    def problem(self) -> Fault | None:
        """Why it cannot be used and how to mend that; None if it can."""
        if self.state == "device":
            return None
        return _STATES.get(self.state, (f"it is in the state '{self.state}'", None))


def adb_program() -> str:
    """The adb client: on PATH, in the Android SDK, or in the package adbutils.

    Raises DeviceError if there is none.
    """
    if found := shutil.which("adb"):
        return found
    places = [
        Path(sdk) / "platform-tools"
        for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT")
        if (sdk := os.environ.get(name))
    ]
    package = importlib.util.find_spec("adbutils")
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "binaries")
    for place in places:
        if found := shutil.which("adb", path=str(place)):
            return found
    raise DeviceError(
        "the program adb was not found: not on PATH, not below ANDROID_HOME, no package adbutils",
        where="adb",
        mend="Install Android's platform tools (Debian: apt install adb), or: pip install adbutils",
    )


def list_adb_devices() -> list[AdbDevice]:
    """Every device that adb's server lists, in its order and in whatever state.

    Starts the server where none runs. Raises DeviceError if there is no adb or its server cannot be reached.
    """
    return listed(client("devices", "-l"))


def client(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the client; DeviceError if it cannot be run, fails or says nothing for too long."""
    program = adb_program()
    try:
        with _server:
            done = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_ANSWER_SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired as late:
        raise DeviceError(
            f"adb's server did not answer within {_ANSWER_SECONDS:g} s",
            where="adb",
            mend="End it, so that the next command starts a new one: adb kill-server",
        ) from late
    except OSError as fault:
        raise DeviceError(f"cannot be started ({fault.strerror})", where=program) from fault
    if done.returncode != 0:
        unknown = (last_line(done.stderr) or "it failed and did not say why", None)
        what, mend = meaning(done.stderr) or unknown
        raise DeviceError(what, where="adb", mend=mend)
    return done


def listed(done: "subprocess.CompletedProcess[str]") -> list[AdbDevice]:
    """What `adb devices -l` says: serial, state, and words such as model:Pixel_9 behind them."""
    _, _, lines = done.stdout.partition("List of devices attached")
    devices = []
    for line in lines.splitlines():
        found = _LISTED.fullmatch(printable(line).strip())
        if found is not None:
            model = re.search(r" model:(\S+)", found[3])
            devices.append(AdbDevice(found[1], found[2], model[1].replace("_", " ") if model else None))
    return devices


def meaning(said: str) -> Fault | None:
    """What the client's messages mean, whichever device it was asked for; None for any other."""
    for pattern, fault in _SAYINGS:
        if re.search(pattern, said):
            return fault
    if re.search(r"cannot connect to daemon|failed to (start|check)|still not running|protocol fault", said):
        return (
            f"adb's server cannot be reached ({last_line(said)})",
            "Type: adb start-server; ANDROID_ADB_SERVER_PORT and ADB_SERVER_SOCKET must be unset or right",
        )
    return None


def last_line(said: str) -> str:
    """The last line of what the client said, without its own name."""
    lines = [line.removeprefix("error: ").removeprefix("adb: ") for line in said.strip().splitlines()]
    return printable(lines[-1]) if lines else ""
