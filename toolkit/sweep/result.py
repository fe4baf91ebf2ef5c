"""What a sweep found, and which ratio it would choose."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from benchmarks.stats import Interval, paired_difference
from toolkit.metrics import METRICS


@dataclass(frozen=True)
class Arm:
    """One adapter of a sweep, or the base model, on the person's validation slice.

    `ratio` of synthetic to real examples, as asked for or, where too few were kept, as reached, with so many
    `synthetic` examples. `losses`: mean negative log-likelihood of each validation example's answer tokens,
    in nats. `metrics` of the task on the same slice, where its examples are answers to queries;
    `query_metrics` on the held-out queries, where asked for. `steps` that were trained and the `best_epoch`,
    whose adapter it is.
    """

    ratio: float
    synthetic: int
    losses: list[float]
    metrics: dict[str, float]
    query_metrics: dict[str, float]
    steps: int
    best_epoch: int | None

    @property
    def loss(self) -> float:
        """Mean over the examples, each counting the same, however long."""
        return fmean(self.losses)


@dataclass(frozen=True)
class Choice:
    """The ratio that a sweep chooses and why; `gain` is how much lower its loss is than with real examples
    alone, paired over the validation examples (None where that is what it chose)."""

    ratio: float
    synthetic: int
    reason: str
    gain: Interval | None


@dataclass(frozen=True)
class Sweep:
    """A sweep: `arms` from real examples alone to the most synthetic ones.

    `real`: examples that every adapter was trained on; `validation`: examples that were compared on.
    `metric`: the task's primary one, None where the history is not of answers. `unreached`: ratios that too
    few examples were kept for.
    """

    user: str
    task: str
    metric: str | None
    real: int
    validation: int
    queries: int
    base: Arm
    arms: tuple[Arm, ...]
    chosen: Choice
    unreached: tuple[float, ...] = ()

    @property
    def shortfall(self) -> str:
        """Which ratios were not measured and what mends that; empty if all were."""
        if not self.unreached:
            return ""
        named = ", ".join(f"{ratio:g}" for ratio in self.unreached)
        return (
            f"ratio {named} was not reached: {self.arms[-1].synthetic} synthetic examples were kept, "
            f"{self.arms[-1].ratio:g} for each real one. What helps: a higher augment.max_requests, "
            "augment.max_tokens or augment.max_cost where that is what stopped it, or another teacher"
        )

    def advice(self, cap: int) -> list[str]:
        """Which ratio to take, how sure that is, and how to write it down; `cap` is `augment.examples`."""
        chosen = self.chosen
        what = "real examples alone (ratio 0)" if not chosen.synthetic else f"ratio {chosen.ratio:g}"
        sentences = [f"Take {what}: {chosen.reason}."]
        if chosen.gain is not None:
            gain = chosen.gain
            sure = (
                "the interval leaves 0 out"
                if gain.excludes_zero
                else f"the interval holds 0, so {self.validation} examples do not settle it"
            )
            sentences.append(
                f"Its loss is lower than with real examples alone by {gain.estimate:.3f} (95 % interval "
                f"{gain.low:.3f} to {gain.high:.3f}, paired): {sure}."
            )
        if chosen.synthetic and chosen.synthetic == self.arms[-1].synthetic:
            sentences.append("It is the largest that was measured: a larger one may be better still.")
        if self.metric and (other := self.best_by_metric):
            value = other.metrics[self.metric]
            sentences.append(
                f"By {self.metric} the best is ratio {other.ratio:g} ({value:.3f}); with {self.validation} "
                "examples the loss tells more."
            )
        if not any(arm.loss < self.base.loss for arm in self.arms):
            sentences.append("No adapter is better than the base model here.")
        fields = f"augment.ratio: {chosen.ratio:g}"
        if chosen.synthetic > cap:
            fields += f" and augment.examples: {chosen.synthetic} (its cap is {cap})"
        sentences.append(f"In the recipe: {fields}.")
        return sentences

    @property
    def best_by_metric(self) -> Arm | None:
        """The arm with the best metric, where it is better than that of the chosen one."""
        if self.metric is None:
            return None
        metric, sign = self.metric, 1 if METRICS[self.metric].higher_is_better else -1
        best = max(self.arms, key=lambda arm: sign * arm.metrics[metric])
        chosen = next(arm for arm in self.arms if arm.synthetic == self.chosen.synthetic)
        return best if sign * (best.metrics[metric] - chosen.metrics[metric]) > 0 else None

    def name_of(self, arm: Arm) -> str:
        """The ratio in words, with a word on the chosen one."""
        name = f"{arm.ratio:g}" if arm.synthetic else "0, real only"
        return f"{name} (chosen)" if arm.synthetic == self.chosen.synthetic else name

    def against_real(self, arm: Arm) -> Interval:
        """How much higher the arm's loss is than with real examples alone, paired, with its interval."""
        return paired_difference(self.arms[0].losses, arm.losses)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the means and intervals among them."""
        return {
            **asdict(self),
            "base": {**asdict(self.base), "loss": self.base.loss},
            "arms": [
                {**asdict(arm), "loss": arm.loss, "loss_against_real": asdict(self.against_real(arm))}
                for arm in self.arms
            ],
        }


def choose_ratio(arms: Sequence[Arm]) -> Choice:
    """The smallest ratio whose loss is within one standard error of the lowest.

    The one-standard-error rule of Breiman et al. (Classification and Regression Trees, 1984, section 3.4.3),
    the error being that of the paired difference to the lowest: what cannot be told from the best and costs
    less is better. `arms` begin with real examples alone.
    """
    best = min(arms, key=lambda arm: arm.loss)
    chosen = next(arm for arm in arms if _excess(arm, best) <= _standard_error(arm, best))
    if chosen is arms[0]:
        if best is chosen:
            return Choice(0.0, 0, "real examples alone have the lowest loss", None)
        why = (
            f"the lowest loss, at ratio {best.ratio:g}, is lower than theirs by {_excess(chosen, best):.3f} "
            f"only, within one standard error ({_standard_error(chosen, best):.3f})"
        )
        return Choice(0.0, 0, why, None)
    gain = paired_difference(chosen.losses, arms[0].losses)
    why = "it has the lowest loss"
    if chosen is not best:
        why = f"it is the smallest within one standard error of the lowest loss, at ratio {best.ratio:g}"
    return Choice(chosen.ratio, chosen.synthetic, why, gain)


def _excess(arm: Arm, best: Arm) -> float:
    return fmean(mine - lowest for mine, lowest in zip(arm.losses, best.losses, strict=True))


def _standard_error(arm: Arm, best: Arm) -> float:
    differences = [mine - lowest for mine, lowest in zip(arm.losses, best.losses, strict=True)]
    return stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
