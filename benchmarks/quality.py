"""The quality suite in the artifact on the device: a person's held-out queries, and perplexity."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.watch import preflight, watched
from runtimes.devices import Device
from runtimes.plan import Plan
from toolkit.errors import DeviceError
from toolkit.progress import SILENT, Progress

Ids = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Score:
    """One text's likelihood: `tokens` that were predicted, `nll` the mean of -ln p over them, in nats."""

    tokens: int
    nll: float


@dataclass(frozen=True)
class Quality:
    """What a bundle answered on a device, as token ids, and how likely it found the given texts."""

    answers: list[list[int]] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log likelihood over all predicted tokens; None without texts."""
        tokens = sum(score.tokens for score in self.scores)
        if not tokens:
            return None
        return math.exp(math.fsum(score.nll * score.tokens for score in self.scores) / tokens)


def quality_on_device(
    bundle: Path,
    device: Device,
    *,
    prompts_ids: Ids = (),
    score_ids: Ids = (),
    max_new_tokens: int = 64,
    stop_ids: Collection[int] = (),
    threads: int | None = None,
    adapter: str | None = None,
    progress: Progress = SILENT,
) -> Quality:
    """Greedy answers to `prompts_ids` and the likelihood of `score_ids`, in one load of `bundle` on `device`.

    Token ids are the bundle's own. Each text to score has two tokens or more; its first one is given, every
    later one predicted from all before it. Raises BundleError for a damaged bundle and DeviceError if the
    device cannot run it.
    """
    manifest, _ = preflight(bundle, device)
    plan = Plan(
        bundle=device.place(bundle, progress),
        threads=threads,
        adapter=adapter,
        repeats=0,
        prompts_ids=tuple(tuple(ids) for ids in prompts_ids),
        max_new_tokens=max_new_tokens,
        stop_ids=tuple(sorted(stop_ids)),
        score_ids=tuple(tuple(ids) for ids in score_ids),
    )
    verb, unit = ("Answering with", "queries") if prompts_ids else ("Scoring with", "texts")
    samples = watched(
        device,
        plan,
        progress,
        f"{verb} {manifest.name} on {device.name}",
        total=len(prompts_ids) + len(score_ids),
        kinds="answer score",
        unit=unit,
    )
    answered = {sample["index"]: sample["ids"] for sample in samples if sample["kind"] == "answer"}
    scored = {
        sample["index"]: Score(sample["tokens"], sample["nll"])
        for sample in samples
        if sample["kind"] == "score"
    }
    missing = [f"answer to prompt {index}" for index in range(len(prompts_ids)) if index not in answered]
    missing += [f"score of text {index}" for index in range(len(score_ids)) if index not in scored]
    if missing:
        raise DeviceError(f"no {missing[0]}", where=f"device {device.name}, {manifest.name}")
    return Quality(
        [answered[index] for index in range(len(prompts_ids))],
        [scored[index] for index in range(len(score_ids))],
    )


def answer_on_device(
    bundle: Path,
    device: Device,
    prompts_ids: Ids,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    threads: int | None = None,
    adapter: str | None = None,
    progress: Progress = SILENT,
) -> list[list[int]]:
    """The bundle's own greedy answers on `device`, as token ids, one list for each prompt."""
    return quality_on_device(
        bundle,
        device,
        prompts_ids=prompts_ids,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        threads=threads,
        adapter=adapter,
        progress=progress,
    ).answers
