"""Instructions a token: a figure that repeats, and can be compared from commit to commit, on any processor.

It is a count of work and not a time: how long an instruction takes is not in it. See `runtimes.instructions`
for who counts.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environment import bundle_facts, environment_of
from benchmarks.results import Result, Setting, Validity, derive
from benchmarks.watch import preflight, watched
from runtimes.devices import Device
from runtimes.instructions import PASSES
from runtimes.plan import Plan
from toolkit.progress import SILENT, Progress

# What the runtime finds in memory from the pass before is some thousand instructions: a few per cent of a toy
# model's, nothing of a real one's. On real hardware an interrupt adds some, too.
UNEVEN = 0.05


def count_instructions(
    bundle: Path,
    device: Device,
    *,
    adapter: str | None = None,
    prompt_tokens: int = 128,
    decode_tokens: int = 64,
    depths: Sequence[int] = (0,),
    progress: Progress = SILENT,
) -> Result:
    """Count the instructions of prefill and decode of `bundle` on `device`, in one thread.

    The result has `instructions_per_prefill_token` and `instructions_per_decode_token_at_D`; no times. Raises
    BundleError for a damaged bundle and DeviceError if the device cannot run it, or has nothing that counts.
    """
    plan = Plan(
        bundle=str(bundle),
        threads=1,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        repeats=0,
        warmup=0,
        depths=tuple(depths),
        count_instructions=True,
    )
    manifest, facts = preflight(bundle, device)
    plan = replace(plan, bundle=device.place(bundle, progress))
    label = f"Counting instructions of {manifest.name} on {device.name}"
    samples = watched(device, plan, progress, label, total=PASSES + 2, kinds="step", unit="steps")
    counted = sorted({int(sample["depth"]) for sample in samples if "depth" in sample})
    return Result(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        setting=Setting(1, prompt_tokens, decode_tokens, PASSES, 1, counted, adapter),
        samples=samples,
        environment=environment_of(device, facts, samples, bundle_facts(bundle, manifest)),
        validity=_judged(samples),
    )


def _judged(samples: Sequence[dict[str, object]]) -> Validity:
    reasons = []
    for name, counts in derive(samples).items():
        low, high = min(counts.values), max(counts.values)
        if counts.unit == "instructions" and high - low > UNEVEN * low:
            reasons.append(f"{name.replace('_', ' ')}: {low:,.0f} in one pass, {high:,.0f} in another")
    return Validity(not reasons, reasons)
