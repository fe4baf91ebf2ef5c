"""Golden prompts asked again: does a bundle answer here as it did where it was made?

The agent asks on a device, the host judges; docs/manifest.md says why the limits are what they are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporters.bundle import GoldenCheck, Manifest
from toolkit.errors import BundleError

if TYPE_CHECKING:
    from runtimes.engine import Engine

# How far a logit may be off, in standard deviations of the logits: with activations in float, and where a
# kernel rounds them to int8, which every one does in its own way.
FLOAT, ROUNDED = 0.01, 0.15
GAP = 3  # times as far: the largest of dozens of differences of two logits


@dataclass(frozen=True)
class Repeat:
    """One golden prompt asked again.

    `top_logits` are those of the manifest's `top_tokens`, `spread` is the standard deviation of all logits
    [vocab] there. For each place of the manifest's continuation, with the manifest's own tokens before it,
    `tokens` has the most likely token and `gaps` by how much its logit is above that of the manifest's token.
    """

    top_logits: list[float]
    spread: float
    tokens: list[int]
    gaps: list[float]


@dataclass(frozen=True)
class Agreement:
    """How well a golden prompt's answers agree; logits. `problem` is None if they do.

    `difference` is the root mean square of the top logits' differences, without what all of them have in
    common, `limit` what it may be. `same_tokens` of `tokens` places have the same most likely token; `gap` is
    the largest at the others, at most GAP times the limit.
    """

    difference: float
    limit: float
    same_tokens: int
    tokens: int
    gap: float
    problem: str | None

    def as_dict(self) -> dict[str, Any]:
        """JSON form; what is not a number is null."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in vars(self).items()
        }


def repeats(engine: "Engine", manifest: Manifest) -> Iterator[Repeat]:
    """Ask the golden prompts one by one; BundleError for one that this model cannot be asked."""
    for index, check in enumerate(manifest.golden):
        _check(check, engine, f"manifest.json, field golden[{index}]")
        logits = engine.prefill(check.prompt)
        top = [float(logits[token]) for token in check.top_tokens]
        spread = float(np.std(logits, dtype=np.float64))
        tokens, gaps = [], []
        for place, token in enumerate(check.continuation):
            tokens.append(int(logits.argmax()))
            gaps.append(float(logits[tokens[-1]]) - float(logits[token]))
            if place + 1 < len(check.continuation):
                logits = engine.decode(token)
        yield Repeat(top, spread, tokens, gaps)


def agreement(number: int, check: GoldenCheck, repeat: Repeat, precision: str) -> Agreement:
    """Judge golden prompt `number` (from 1) of a bundle whose weights have `precision`.

    What all top logits have in common is left out, since it changes no probability.
    """
    limit = (FLOAT if precision == "fp32" else ROUNDED) * repeat.spread
    off = np.subtract(repeat.top_logits, check.top_logits)
    difference = float(off.std()) if off.size else 0.0
    gap = float(np.max(repeat.gaps, initial=0.0))  # of numbers one of which is none, it is none
    same = sum(a == b for a, b in zip(repeat.tokens, check.continuation, strict=True))
    problem = None
    if not all(map(math.isfinite, (difference, limit, gap))):
        problem = "logits are not numbers"
    elif difference > limit:
        problem = f"logits are off by {difference:.3g}, at most {limit:.3g}"
    elif gap > GAP * limit:
        problem = f"another token's logit is higher by {gap:.3g}, at most {GAP * limit:.3g}"
    if problem:
        problem = f"golden prompt {number}: {problem}"
    return Agreement(difference, limit, same, len(check.continuation), gap, problem)


def repeat_golden(engine: "Engine", manifest: Manifest) -> list[Agreement]:
    """Ask the golden prompts of `engine` and judge each."""
    precision = manifest.precision.name
    return [
        agreement(number, check, repeat, precision)
        for number, (check, repeat) in enumerate(
            zip(manifest.golden, repeats(engine, manifest), strict=True), start=1
        )
    ]


def _check(check: GoldenCheck, engine: "Engine", where: str) -> None:
    mend = "Export the bundle again"
    known = [*check.prompt, *check.top_tokens, *check.continuation]
    if beyond := [token for token in known if not 0 <= token < engine.vocab_size]:
        raise BundleError(f"the model has no token {beyond[0]}", where=where, mend=mend)
    length = len(check.prompt) + len(check.continuation)
    if not check.prompt or length > engine.context_length:
        raise BundleError(
            f"{length} tokens do not fit a context of {engine.context_length}", where=where, mend=mend
        )
