"""How a bundle is measured on a device: preflight, wait for rest, warm-up, repeats, judgement."""

import shutil
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import BundleFacts, Environment, Result, Setting
from benchmarks.validity import judge
from exporters.bundle import MANIFEST, Manifest, read_manifest, verify_files
from runtimes.devices import Device, Sample
from runtimes.plan import Plan
from runtimes.sensors import hottest
from toolkit.errors import DeviceError
from toolkit.files import sha256_of
from toolkit.progress import SILENT, Progress

# Long enough for the last seconds of an export or a build to end; a machine in use all day is not waited for.
SETTLE_SECONDS = 30.0
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
    progress: Progress = SILENT,
) -> Result:
    """Measure load, TTFT, prefill, decode at each depth, and memory of `bundle` on `device`.

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
    )
    manifest, facts = _preflight(bundle, device)
    plan = replace(plan, bundle=device.place(bundle, progress))
    label = f"Benchmarking {manifest.name} on {device.name}"
    samples = _watched(device, plan, progress, label, warmup + repeats)
    return Result(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        setting=Setting(threads, prompt_tokens, decode_tokens, repeats, warmup, _depths(samples), adapter),
        samples=samples,
        environment=_environment(device.name, facts, samples, _bundle_facts(bundle, manifest)),
        validity=judge(samples, threads),
    )


def answer_on_device(
    bundle: Path,
    device: Device,
    prompts_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    threads: int | None = None,
    adapter: str | None = None,
    progress: Progress = SILENT,
) -> list[list[int]]:
    """The bundle's own greedy answers on `device`, as token ids, one list for each prompt."""
    manifest, _ = _preflight(bundle, device)
    plan = Plan(
        bundle=device.place(bundle, progress),
        threads=threads,
        adapter=adapter,
        repeats=0,
        prompts_ids=tuple(tuple(ids) for ids in prompts_ids),
        max_new_tokens=max_new_tokens,
        stop_ids=tuple(sorted(stop_ids)),
    )
    label = f"Answering with {manifest.name} on {device.name}"
    samples = _watched(device, plan, progress, label, len(prompts_ids), "answer", "queries")
    answers = {sample["index"]: sample["ids"] for sample in samples if sample["kind"] == "answer"}
    missing = [index for index in range(len(prompts_ids)) if index not in answers]
    if missing:
        raise DeviceError(f"no answer to prompt {missing[0]}", where=f"device {device.name}, {manifest.name}")
    return [answers[index] for index in range(len(prompts_ids))]


def _watched(
    device: Device,
    plan: Plan,
    progress: Progress,
    label: str,
    total: int,
    kind: str = "prefill",
    unit: str = "repeats",
) -> list[Sample]:
    with progress.step(label, total=total, unit=unit) as advance:
        return device.run(plan, _counting(kind, advance))


def _counting(kind: str, advance: Callable[[float], None]) -> Callable[[Sample], None]:
    def on_sample(sample: Sample) -> None:
        if sample["kind"] == kind:
            advance(1)

    return on_sample


def _preflight(bundle: Path, device: Device) -> tuple[Manifest, dict[str, Any]]:
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
    return manifest, facts.as_dict()


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
    hello = next((sample for sample in samples if sample["kind"] == "hello"), {})
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
    )


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
