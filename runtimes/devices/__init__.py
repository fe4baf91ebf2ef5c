"""Where a bundle runs: this machine now; boards over ssh and phones over adb in a later version."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from runtimes.facts import Facts
from runtimes.plan import Plan
from toolkit.errors import DeviceError

Sample = dict[str, Any]
OnSample = Callable[[Sample], None]


class Device(ABC):
    """A machine that can run the agent."""

    name: str

    @abstractmethod
    def facts(self) -> Facts:
        """What the machine is; None wherever it does not tell."""

    @abstractmethod
    def run(self, plan: Plan, on_sample: OnSample | None = None) -> list[Sample]:
        """Run `plan` and return every sample in order; `on_sample` sees each one as it arrives.

        Raises DeviceError with the device and the step if the agent fails.
        """


def parse_device(text: str) -> Device:
    """The device that `text` names: `local`. Raises DeviceError for anything else."""
    if text == "local":
        from runtimes.devices.local import LocalDevice

        return LocalDevice()
    for scheme in ("ssh://", "adb:"):
        if text.startswith(scheme):
            raise DeviceError(
                f"{scheme} devices come with a later version of EdgePLM",
                where=f"device {text}",
                mend="Use local: install EdgePLM on the device itself and run the same command there",
            )
    raise DeviceError("unknown device", where=f"device {text!r}", mend="Known: local")
