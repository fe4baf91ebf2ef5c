"""How a bundle is measured on a device: preflight, wait for rest, warm-up, repeats, judgement."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.quality import Quality, answer_on_device, quality_on_device
from benchmarks.results import BundleFacts, Environment, Result, Setting
from benchmarks.validity import judge
from benchmarks.watch import preflight, watched
from exporters.bundle import MANIFEST, Manifest
from runtimes.devices import Device, Sample
from runtimes.plan import Plan
from runtimes.sensors import hottest
from toolkit.errors import DeviceError
from toolkit.files import sha256_of
from toolkit.progress import SILENT, Progress

__all__ = ["SETTLE_SECONDS", "Quality", "answer_on_device", "benchmark", "quality_on_device"]

# Long enough for the last seconds of an export or a build to end; a machine in use all day is not waited for.
SETTLE_SECONDS = 30.0
# A window that meters power: RAPL needs a second, a board's sensor a few; a battery's gauge makes it longer.
ENERGY_SECONDS = 5.0
_CHECKOUT = Path(__file__).resolve().parents[1]


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
    used = _first(samples, "hello").get("cores") if cores is not None else None
    return Result(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        setting=Setting(
            threads, prompt_tokens, decode_tokens, repeats, warmup, _depths(samples), adapter, used
        ),
        samples=samples,
        environment=_environment(device.name, facts.as_dict(), samples, _bundle_facts(bundle, manifest)),
        validity=judge(samples, threads),
    )


def _first(samples: Sequence[Sample], kind: str) -> Sample:
    return next((sample for sample in samples if sample["kind"] == kind), {})


def _depths(samples: Sequence[Sample]) -> list[int]:
    return sorted({int(sample["depth"]) for sample in samples if sample["kind"] == "decode"})


def _bundle_facts(bundle: Path, manifest: Manifest) -> BundleFacts:
    return BundleFacts(
        name=manifest.name,
        manifest_sha256=sha256_of(bundle / MANIFEST),
        bytes=manifest.total_bytes,
        base_model=manifest.base_model.source,
        runtime=manifest.runtime.name,
        precision=manifest.precision.name,
        adapters=[f"{adapter.name} ({adapter.kind})" for adapter in manifest.adapters],
    )


def _environment(
    device: str, facts: dict[str, Any], samples: Sequence[Sample], bundle: BundleFacts
) -> Environment:
    readings = [sample for sample in samples if sample["kind"] == "sensors"]
    heat = [hottest(reading) for reading in readings]
    known = [value for value in heat if value is not None]
    before = readings[0] if readings else {}
    hello, power = _first(samples, "hello"), _first(samples, "power")
    governors = {name for name in before.get("governors") or [] if name}
    return Environment(
        device=device,
        facts=facts,
        bundle=bundle,
        versions={"python": hello.get("python", "unknown"), **hello.get("versions", {})},
        governors=sorted(governors) or None,
        temperature_before=heat[0] if heat else None,
        temperature_highest=max(known, default=None),
        temperature_after=heat[-1] if heat else None,
        load_average_before=(before.get("load_average") or [None])[0],
        git=_git_commit(),
        frequency_share=frequency_share(samples),
        power_source=f"{power['source']}: {power['scope']}" if power.get("source") else None,
    )


def frequency_share(samples: Sequence[Sample]) -> dict[str, dict[str, float]] | None:
    """The share of the repeats' time at each frequency in MHz, by cpufreq policy; None where untold."""
    spent: dict[str, Counter[str]] = {}
    for sample in samples:
        if sample["kind"] == "sensors" and sample["when"] == "during" and not sample["warmup"]:
            for policy, seconds in (sample.get("frequency_seconds") or {}).items():
                spent.setdefault(policy, Counter()).update(seconds)
    return {
        policy: {mhz: round(time / seconds.total(), 4) for mhz, time in sorted(seconds.items(), key=_mhz)}
        for policy, seconds in spent.items()
        if seconds.total()
    } or None


def _mhz(pair: tuple[str, float]) -> float:
    return float(pair[0])


def _git_commit() -> str | None:
    """The commit of EdgePLM's own checkout; None for an installed package."""
    git = shutil.which("git")
    if git is None or not (_CHECKOUT / ".git").exists():
        return None
    found = [
        subprocess.run([git, "-C", str(_CHECKOUT), *arguments], capture_output=True, text=True, check=False)
        for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
    ]
    if any(answer.returncode for answer in found):
        return None
    return found[0].stdout.strip() + ("-dirty" if found[1].stdout.strip() else "")
