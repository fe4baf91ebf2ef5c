"""How a bundle is measured on a device: preflight, wait for rest, warm-up, repeats, judgement."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environment import bundle_facts, environment_of, first_of
from benchmarks.quality import Quality, answer_on_device, quality_on_device
from benchmarks.results import Result, Setting
from benchmarks.validity import judge
from benchmarks.watch import preflight, watched
from runtimes.devices import Device, Sample
from runtimes.plan import Plan
from toolkit.errors import DeviceError
from toolkit.progress import SILENT, Progress

__all__ = ["SETTLE_SECONDS", "Quality", "answer_on_device", "benchmark", "quality_on_device"]

# Long enough for the last seconds of an export or a build to end; a machine in use all day is not waited for.
SETTLE_SECONDS = 30.0
# A window that meters power: RAPL needs a second, a board's sensor a few; a battery's gauge makes it longer.
ENERGY_SECONDS = 5.0


def benchmark(
    bundle: Path,
    device: Device,
    *,
    threads: int | None = None,
    adapter: str | None = None,
    prompt_tokens: int = 128,
    decode_tokens: int = 64,
    repeats: int = 5,
    warmup: int = 1,
    depths: Sequence[int] = (0, 256),
    settle_seconds: float = SETTLE_SECONDS,
    cores: Sequence[int] | str | None = None,
    energy_seconds: float = ENERGY_SECONDS,
    sustained_minutes: float = 0.0,
    progress: Progress = SILENT,
) -> Result:
    """Measure load, TTFT, prefill, decode at each depth, memory and energy of `bundle` on `device`.

    `settle_seconds` is the longest wait for a quiet, cool device before the first load, and for the
    temperature to return between repeats. `cores` binds the run to cores: their numbers, or "fast" for all
    but the slowest cluster. `energy_seconds` is the length of each metered window where power can be read,
    0 for none. `sustained_minutes` above 0 decodes without a pause at last, until the rate settles, for so
    long at most.

    A run that was throttled, starved or disturbed comes back marked invalid, with its reasons. Raises
    BundleError for a damaged bundle and DeviceError if the device cannot run it.
    """
    if repeats == 0:
        raise DeviceError("repeats: found 0, accepted: a whole number from 1", where="plan of the run")
    plan = Plan(
        bundle=str(bundle),  # checked before anything is sent; `place` says where it lies on the device
        threads=threads,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        repeats=repeats,
        warmup=warmup,
        depths=tuple(depths),
        settle_seconds=settle_seconds,
        cores=cores if cores is None or isinstance(cores, str) else tuple(cores),
        energy_seconds=energy_seconds,
        sustained_minutes=sustained_minutes,
    )
    manifest, facts = preflight(bundle, device)
    plan = replace(plan, bundle=device.place(bundle, progress))
    label = f"Benchmarking {manifest.name} on {device.name}"
    samples = watched(
        device,
        plan,
        progress,
        label,
        total=warmup + repeats + round(sustained_minutes),
        kinds="prefill sustained",
        unit="repeats and minutes" if sustained_minutes else "repeats",
    )
    used = first_of(samples, "hello").get("cores") if cores is not None else None
    return Result(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        setting=Setting(
            threads, prompt_tokens, decode_tokens, repeats, warmup, _depths(samples), adapter, used
        ),
        samples=samples,
        environment=environment_of(device, facts, samples, bundle_facts(bundle, manifest)),
        validity=judge(samples, threads, emulated=facts.emulated),
    )


def _depths(samples: Sequence[Sample]) -> list[int]:
    return sorted({int(sample["depth"]) for sample in samples if sample["kind"] == "decode"})
