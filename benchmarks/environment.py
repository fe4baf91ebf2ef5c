"""Where and with what a run was measured, as far as machine, bundle and samples tell."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import BundleFacts, Environment
from exporters.bundle import MANIFEST, Manifest
from runtimes.devices import Device, Sample
from runtimes.facts import Facts
from runtimes.sensors import hottest
from toolkit.files import sha256_of

_CHECKOUT = Path(__file__).resolve().parents[1]


def first_of(samples: Sequence[Sample], kind: str) -> Sample:
    """The first sample of a kind, {} where there is none."""
    return next((sample for sample in samples if sample["kind"] == kind), {})


def bundle_facts(bundle: Path, manifest: Manifest) -> BundleFacts:
    """Which artifact `bundle` is."""
    return BundleFacts(
        name=manifest.name,
        manifest_sha256=sha256_of(bundle / MANIFEST),
        bytes=manifest.total_bytes,
        base_model=manifest.base_model.source,
        runtime=manifest.runtime.name,
        precision=manifest.precision.name,
        adapters=[f"{adapter.name} ({adapter.kind})" for adapter in manifest.adapters],
    )


def environment_of(
    device: Device, facts: Facts, samples: Sequence[Sample], bundle: BundleFacts
) -> Environment:
    """Where and with what the run behind `samples` was measured."""
    readings = [sample for sample in samples if sample["kind"] == "sensors"]
    heat = [hottest(reading) for reading in readings]
    known = [value for value in heat if value is not None]
    before = readings[0] if readings else {}
    hello, power = first_of(samples, "hello"), first_of(samples, "power")
    governors = {name for name in before.get("governors") or [] if name}
    return Environment(
        device=device.name,
        facts=facts.as_dict(),
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
