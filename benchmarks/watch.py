"""What every run on a device needs: a bundle that is whole and fits, and a progress bar over its samples."""

from collections.abc import Callable
from pathlib import Path

from exporters.bundle import Manifest, read_manifest, verify_files
from runtimes.devices import Device, Sample
from runtimes.facts import Facts
from runtimes.plan import Plan
from toolkit.errors import DeviceError
from toolkit.progress import Progress


def preflight(bundle: Path, device: Device) -> tuple[Manifest, Facts]:
    """The bundle's manifest and the device's facts; BundleError for a damaged bundle, DeviceError if the
    device cannot hold it. What changes from minute to minute the agent checks itself."""
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest, hashes=False)
    facts = device.facts()
    if facts.memory_bytes is not None and manifest.total_bytes > facts.memory_bytes:
        raise DeviceError(
            f"{manifest.name} has {manifest.total_bytes / 1e6:.0f} MB, "
            f"the machine {facts.memory_bytes / 1e6:.0f} MB of memory",
            where=f"device {device.name}",
            mend="Export a smaller model or a lower precision",
        )
    return manifest, facts


def watched(
    device: Device, plan: Plan, progress: Progress, label: str, *, total: int, kinds: str, unit: str
) -> list[Sample]:
    """Run `plan` on `device`; every sample of one of `kinds` (words) is a step of the progress bar."""
    counted = kinds.split()
    with progress.step(label, total=total, unit=unit) as advance:
        return device.run(plan, _counting(counted, advance))


def _counting(kinds: list[str], advance: Callable[[float], None]) -> Callable[[Sample], None]:
    def on_sample(sample: Sample) -> None:
        if sample["kind"] in kinds:
            advance(1)

    return on_sample
