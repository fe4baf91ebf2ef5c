"""A bundle's golden prompts asked on a device, and what is to be made of the answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.bundle import Manifest
from runtimes.devices import Device, Sample
from runtimes.golden import Agreement, Repeat, agreement
from runtimes.plan import Plan
from toolkit.errors import BundleError, DeviceError
from toolkit.progress import SILENT, Progress


@dataclass(frozen=True)
class DeviceCheck:
    """What a device answered, and the runtime that it answered with."""

    agreements: list[Agreement]
    runtime: str
    runtime_version: str

    @property
    def problems(self) -> list[str]:
        """What fell short; nothing if all agree."""
        return [each.problem for each in self.agreements if each.problem]


def check_on_device(
    bundle: Path, manifest: Manifest, device: Device, progress: Progress = SILENT
) -> DeviceCheck:
    """Place the bundle on `device`, every hash checked there, and have the agent repeat its golden prompts.

    Raises BundleError for a bundle that has none, DeviceError with the device and the step.
    """
    if not manifest.golden:
        raise BundleError(
            "has no golden prompts to repeat", where=str(bundle), mend="Export the bundle again"
        )
    plan = Plan(bundle=device.place(bundle, progress), repeats=0, golden=True)
    total = len(manifest.golden)
    with progress.step(f"Golden prompts on {device.name}", total=total, unit="prompts") as advance:
        samples = device.run(plan, lambda sample: advance(1) if sample["kind"] == "golden" else None)
    load = next((sample for sample in samples if sample["kind"] == "load"), {})
    return DeviceCheck(
        _judged(manifest, samples, device.name),
        str(load.get("runtime", "?")),
        str(load.get("runtime_version", "?")),
    )


def _judged(manifest: Manifest, samples: list[Sample], device: str) -> list[Agreement]:
    found = [_repeat(sample) for sample in samples if sample["kind"] == "golden"]
    fitting = [
        repeat
        for repeat, check in zip(found, manifest.golden, strict=False)
        if len(repeat.top_logits) == len(check.top_tokens)
        and len(repeat.tokens) == len(repeat.gaps) == len(check.continuation)
    ]
    if not len(fitting) == len(found) == len(manifest.golden):
        raise DeviceError(
            f"answered {len(fitting)} of {len(manifest.golden)} golden prompts",
            where=f"device {device}, step golden prompts",
            mend="Try again",
        )
    return [
        agreement(number, check, repeat, manifest.precision.name)
        for number, (check, repeat) in enumerate(zip(manifest.golden, found, strict=True), start=1)
    ]


def _repeat(sample: dict[str, Any]) -> Repeat:
    names = ("top_logits", "tokens", "gaps")
    lists = {name: list(sample.get(name) or ()) for name in names}
    return Repeat(spread=float(sample.get("spread") or 0.0), **lists)
