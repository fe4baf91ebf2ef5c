"""Where a bundle runs: this machine, boards over ssh, phones over adb."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from runtimes.devices.stream import Sample
from runtimes.facts import Facts
from runtimes.plan import Plan
from toolkit.errors import DeviceError
from toolkit.progress import SILENT, Progress

__all__ = ["Device", "OnSample", "Sample", "parse_device"]

OnSample = Callable[[Sample], None]


class Device(ABC):
    """A machine that can run the agent. `name` is how a person wrote it: local, ssh://pi@host, adb:SERIAL."""

    name: str

    @abstractmethod
    def facts(self) -> Facts:
        """What the machine is; None wherever it does not tell."""

    @abstractmethod
    def place(self, bundle: Path, progress: Progress = SILENT) -> str:
        """Have the bundle on the device, complete and verified there; returns its folder's path there.

        Only what the device has not got is sent. Raises DeviceError with the device and the step.
        """

    @abstractmethod
    def run(self, plan: Plan, on_sample: OnSample | None = None) -> list[Sample]:
        """Run `plan`, whose bundle is a path that `place` returned, and return every sample in order.

        `on_sample` sees each sample as it arrives. Raises DeviceError with the device and the step if the
        agent fails.
        """

    def close(self) -> None:
        """Give back what the connection holds on this machine."""
        return


def parse_device(text: str) -> Device:
    """The device that `text` names: `local`, `ssh://[user@]host[:port]` or `adb:[SERIAL]`.

    Nothing is connected yet. Raises DeviceError for anything else.
    """
    if text == "local":
        from runtimes.devices.local import LocalDevice

        return LocalDevice()
    if text.startswith("ssh://"):
        from runtimes.devices.remote import RemoteDevice
        from runtimes.devices.ssh import SshShell

        return RemoteDevice(SshShell(text))
    if text.startswith("adb:"):
        from runtimes.devices.adb import AdbShell
        from runtimes.devices.android import AndroidDevice

        return AndroidDevice(AdbShell(text))
    raise DeviceError(
        "unknown device",
        where=f"device {text!r}",
        mend="Known: local, ssh://[user@]host[:port], adb:SERIAL",
    )
