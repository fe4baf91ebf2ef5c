"""Does the artifact still answer like the personalised float model?

An int4 step is often larger than a LoRA adapter's change of a weight, so a merged and quantised model can
silently answer like the base model. What is measured here, on the person's own prompts:

- survival: the change that the adapter makes to the next-token logits, in the artifact against in float.
  With f = float personalised - float base and q = quantised personalised - quantised base, each centred
  over the vocabulary, `correlation` is their cosine and `size` is |q| / |f|.
- KL divergence of the artifact from the float personalised model, and how often both have the same most
  likely token.
- perplexity of a neutral text, float and artifact.

Positions are those that predict the float personalised model's own greedy answer.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from toolkit.errors import EdgePLMError
from toolkit.progress import SILENT, Progress

Array = npt.NDArray[np.float32]


class Scorer(Protocol):
    """What verification needs of an engine."""

    def score(self, ids: Sequence[int], first: int = 0) -> Array:
        """Logits of the positions from `first` on [len(ids) - first, vocab]."""
        ...


class Generator(Scorer, Protocol):
    """A scorer that also answers."""

    def generate(self, ids: Sequence[int], max_new_tokens: int, stop: Sequence[int]) -> Any:
        """Greedy continuation, token by token."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """What an export must reach; see the recipe's `verify` section."""

    min_correlation: float
    min_size: float
    max_size: float
    max_kl: float


@dataclass(frozen=True)
class Survival:
    """How much of an adapter's effect is left, a value a prompt; KL in nats."""

    correlation: list[float]
    size: list[float]
    kl: list[float]
    same_top: list[float]


@dataclass(frozen=True)
class Verification:
    """The outcome: figures, thresholds, and the reasons for which it failed (none: it passed)."""

    survival: Survival | None
    greedy_agreement: float
    perplexity_float: float
    perplexity_artifact: float
    kl_neutral: float
    failures: list[str]

    @property
    def passed(self) -> bool:
        """True if no threshold was missed."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """JSON form for the manifest, means and worst cases included."""
        data = asdict(self) | {"passed": self.passed}
        if self.survival:
            data["survival"] |= {
                "correlation_mean": float(np.mean(self.survival.correlation)),
                "correlation_worst": float(np.min(self.survival.correlation)),
                "size_mean": float(np.mean(self.survival.size)),
                "kl_mean": float(np.mean(self.survival.kl)),
                "same_top_mean": float(np.mean(self.survival.same_top)),
            }
        return data


def verify(
    *,
    float_base: Scorer,
    float_personalised: Generator,
    artifact_base: Scorer | None,
    artifact: Generator,
    prompts: Sequence[Sequence[int]],
    stop: Sequence[int],
    neutral: Sequence[Sequence[int]],
    thresholds: Thresholds,
    continuation: int = 12,
    progress: Progress = SILENT,
) -> Verification:
    """Compare the artifact with the float models, token by token.

    `prompts` are token ids of the person's own queries; `neutral` are windows of a text that is neither the
    person's nor used for calibration. Without `artifact_base` (an export without an adapter) survival is
    left out. Raises EdgePLMError if there is nothing to compare on.
    """
    if not prompts or not neutral:
        raise EdgePLMError(
            f"there are {len(prompts)} prompts and {len(neutral)} neutral texts to compare on",
            where="verify",
            mend="Give at least one of each",
        )
    correlation, size, kl, top, agreement = [], [], [], [], []
    with progress.step("Verifying against float", total=len(prompts) + len(neutral), unit="texts") as advance:
        for prompt in prompts:
            answer = list(float_personalised.generate(prompt, continuation, stop))
            given = list(artifact.generate(prompt, continuation, stop))
            agreement.append(_agreement(answer, given))
            ids, first = [*prompt, *answer], len(prompt) - 1
            personal = float_personalised.score(ids, first)
            shipped = artifact.score(ids, first)
            kl.append(float(np.mean(kl_divergence(personal, shipped))))
            top.append(float(np.mean(personal.argmax(-1) == shipped.argmax(-1))))
            if artifact_base is not None:
                effect = personal - float_base.score(ids, first)
                left = shipped - artifact_base.score(ids, first)
                correlation.append(float(np.mean(effect_correlation(effect, left))))
                size.append(float(np.mean(effect_size(effect, left))))
            advance(1)
        nll_float, nll_artifact, kl_neutral = [], [], []
        for window in neutral:
            exact, shipped = float_personalised.score(window), artifact.score(window)
            nll_float.append(_nll(exact, window))
            nll_artifact.append(_nll(shipped, window))
            kl_neutral.append(float(np.mean(kl_divergence(exact, shipped))))
            advance(1)
    survival = Survival(correlation, size, kl, top) if artifact_base is not None else None
    return Verification(
        survival=survival,
        greedy_agreement=float(np.mean(agreement)),
        perplexity_float=_perplexity(nll_float),
        perplexity_artifact=_perplexity(nll_artifact),
        kl_neutral=float(np.mean(kl_neutral)),
        failures=_failures(survival, kl, thresholds),
    )


def effect_correlation(effect: Array, left: Array) -> npt.NDArray[np.float64]:
    """Cosine of two logit changes [positions, vocab], each centred over the vocabulary; [positions]."""
    a, b = _centred(effect), _centred(left)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)


def effect_size(effect: Array, left: Array) -> npt.NDArray[np.float64]:
    """Norm of `left` relative to `effect`, both centred over the vocabulary; [positions]."""
    whole = np.linalg.norm(_centred(effect), axis=-1)
    return np.divide(
        np.linalg.norm(_centred(left), axis=-1), whole, out=np.zeros_like(whole), where=whole > 0
    )


def kl_divergence(reference: Array, other: Array) -> npt.NDArray[np.float64]:
    """KL(reference || other) of next-token distributions from logits [positions, vocab], in nats."""
    p, q = log_softmax(reference), log_softmax(other)
    return np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)


def log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    """Log-probabilities [positions, vocab] in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _centred(change: Array) -> npt.NDArray[np.float64]:
    wide = change.astype(np.float64)
    return wide - wide.mean(-1, keepdims=True)


def _nll(logits: Array, ids: Sequence[int]) -> float:
    chances = log_softmax(logits[:-1])
    return float(-chances[np.arange(len(ids) - 1), list(ids[1:])].mean())


def _perplexity(nll: Sequence[float]) -> float:
    mean = float(np.mean(nll))
    return math.exp(mean) if mean < 700 else math.inf  # beyond it, exp leaves float64


def _agreement(expected: list[int], given: list[int]) -> float:
    """Share of the longer answer that both have in common from the start."""
    longest = max(len(expected), len(given))
    same = 0
    for a, b in zip(expected, given, strict=False):
        if a != b:
            break
        same += 1
    return same / longest if longest else 1.0


def _failures(survival: Survival | None, kl: Sequence[float], limits: Thresholds) -> list[str]:
    checks: list[tuple[str, float, bool, str]] = []
    if survival:
        correlation, size = float(np.mean(survival.correlation)), float(np.mean(survival.size))
        checks += [
            ("correlation of the adapter's effect", correlation, correlation >= limits.min_correlation,
             f"at least {limits.min_correlation:g}"),
            ("size of the adapter's effect", size, limits.min_size <= size <= limits.max_size,
             f"{limits.min_size:g} to {limits.max_size:g}"),
        ]  # fmt: skip
    mean_kl = float(np.mean(kl))
    checks.append(
        ("KL divergence from float", mean_kl, mean_kl <= limits.max_kl, f"at most {limits.max_kl:g}")
    )
    return [f"{name} is {value:.3f}, wanted {wanted}" for name, value, good, wanted in checks if not good]
