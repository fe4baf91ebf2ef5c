"""Phones over adb: a shell on the device, through Android's own client program.

A device is chosen by its serial, which may be `host:port`, and only if adb's server lists it.
"""

import re
import time

from runtimes.devices import adb_client
from runtimes.devices.adb_client import AdbDevice, Fault, list_adb_devices
from runtimes.devices.shell import Shell
from toolkit.errors import DeviceError, printable

__all__ = ["ROOT", "SCHEME", "AdbDevice", "AdbShell", "list_adb_devices"]

SCHEME = "adb:"
# The one place where every Android lets adb's shell write and run programs.
ROOT = "/data/local/tmp/edgeplm"
# A phone that was just plugged in, or comes back after a cut, passes through these states.
_PASSING = ("offline", "connecting", "authorizing")
_PASSING_SECONDS = 5.0


class AdbShell(Shell):
    """A shell on the phone `adb:SERIAL`, or on the only one there is for `adb:`.

    Nothing is asked of adb before the first command. Needs adb's shell protocol 2, so Android 7 or later.
    """

    root = ROOT

    def __init__(self, name: str) -> None:
        serial = name.removeprefix(SCHEME)
        if not name.startswith(SCHEME) or serial != printable(serial) or re.search(r"\s", serial):
            raise DeviceError(
                "not a device of adb",
                where=f"device {name!r}",
                mend="Write adb:SERIAL, as adb devices lists it",
            )
        self.name = name
        self._serial = serial
        self._program: str | None = None

    @property
    def serial(self) -> str:
        """The device's serial; for `adb:` it is known once it is connected."""
        return self._serial

    def command(self, line: str) -> list[str]:
        if self._program is None:
            self.connect()
        # -T: no terminal, which would change bytes; the streams stay apart and the status is the command's.
        return [str(self._program), "-s", self._serial, "shell", "-T", line]

    def connect(self, step: str = "connect") -> None:
        """Find the device and look whether it can be used. Raises DeviceError that says how to mend it."""
        device = self._await(step)
        if problem := device.problem:
            raise self.fault(step, *problem)
        self._serial = device.serial
        self.name = f"{SCHEME}{device.serial}"
        try:
            features = adb_client.client("-s", device.serial, "features").stdout.split()
        except DeviceError as fault:
            raise self.fault(step, fault.what, fault.mend) from fault
        if "shell_v2" not in features:
            raise self.fault(step, *adb_client.TOO_OLD)
        self._program = adb_client.adb_program()

    def _await(self, step: str) -> AdbDevice:
        """The device, given a moment if it is only just coming."""
        deadline = time.monotonic() + _PASSING_SECONDS
        while True:
            device = self._chosen(step)
            if device.state not in _PASSING or time.monotonic() > deadline:
                return device
            time.sleep(0.25)

    def _chosen(self, step: str) -> AdbDevice:
        try:
            devices = list_adb_devices()
        except DeviceError as fault:
            raise self.fault(step, fault.what, fault.mend) from fault
        listed = ", ".join(f"{SCHEME}{each.serial} ({each.state})" for each in devices)
        if not devices:
            raise self.fault(step, "adb lists no device", self._plug_in())
        if not self._serial:
            if len(devices) > 1:
                raise self.fault(step, f"{len(devices)} devices are connected", f"Name one of them: {listed}")
            return devices[0]
        found = [each for each in devices if each.serial == self._serial]
        if not found:
            raise self.fault(step, f"not connected; adb lists {listed}", self._plug_in())
        if len(found) > 1:
            raise self.fault(step, f"{len(found)} devices have this serial", "Unplug all but one of them")
        return found[0]

    def _plug_in(self) -> str:
        if ":" in self._serial:
            return f"Connect it: adb connect {self._serial}"
        return "Plug it in with a data cable, and switch on USB debugging in its developer options"

    def explain(self, status: int, said: str) -> Fault:
        """A connection that is cut in mid-command may say nothing: then adb is asked how things stand."""
        if known := adb_client.meaning(said):
            return known
        again = f"{self._plug_in()}; then run the same command again"
        if re.search(r"device '.*' not found|no devices", said):
            return "not connected any more", again
        try:
            done = adb_client.client("devices", "-l")
        except DeviceError as fault:
            return fault.what, fault.mend
        if "daemon not running" in done.stdout + done.stderr:
            return "adb's server was ended in mid-command", f"Let nothing end it. {again}"
        device = next((each for each in adb_client.listed(done) if each.serial == self._serial), None)
        if device is None:
            return "the connection was cut: unplugged, or adb ended on the phone", again
        if problem := device.problem:
            return f"the connection was cut, and now {problem[0]}", problem[1]
        told = f" ({adb_client.last_line(said)})" if said else ""
        mend = "Look at cable and port, then run the same command again"
        return f"the connection was cut{told}; the phone is there again", mend
