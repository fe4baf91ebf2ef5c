"""The questions of the first screen: did it help, did it survive, how big and how fast is it; or why is there
no artifact."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks import figures
from benchmarks.report_data import Arm, Report
from benchmarks.results import Result, Statistic
from benchmarks.stats import Interval, mean_interval, paired_difference

Tone = Literal["good", "bad", "unsure"]
# Fewer pairs than this and a bootstrap interval says more about chance than about the model.
LEAST_QUERIES = 8


@dataclass(frozen=True)
class Verdict:
    """One question with its answer in a word, its main figures with what they are, and whole sentences."""

    question: str
    answer: str
    tone: Tone
    figures: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]
    anchor: str


@dataclass(frozen=True)
class Gain:
    """An arm against another one by the primary metric; `difference` is None without paired values."""

    before: float
    after: float
    difference: Interval | None
    queries: int
    higher_is_better: bool

    @property
    def tone(self) -> Tone:
        """Better, worse, or not to be told from chance."""
        if self.difference is None or self.queries < LEAST_QUERIES or not self.difference.excludes_zero:
            return "unsure"
        return "good" if (self.difference.estimate > 0) == self.higher_is_better else "bad"


def gain(report: Report, before: Arm, after: Arm) -> Gain | None:
    """`after` against `before`; None if one lacks the primary metric."""
    metric = report.task.metric
    if metric not in before.metrics or metric not in after.metrics:
        return None
    paired = len(before.per_query) == len(after.per_query) > 0 and _finite(before.per_query + after.per_query)
    return Gain(
        before=before.metrics[metric],
        after=after.metrics[metric],
        difference=paired_difference(before.per_query, after.per_query) if paired else None,
        queries=len(after.per_query),
        higher_is_better=report.task.higher_is_better,
    )


def arm_interval(arm: Arm, metric: str) -> Interval | None:
    """The interval of an arm's metric; None where the metric is no mean over the queries (RMSE, macro F1)."""
    if metric not in arm.metrics or not arm.per_query or not _finite(arm.per_query):
        return None
    interval = mean_interval(arm.per_query)
    same = math.isclose(interval.estimate, arm.metrics[metric], rel_tol=1e-3, abs_tol=1e-6)
    return interval if same else None


def verdicts(report: Report) -> list[Verdict]:
    """The answers that the report's data can give, in the order of the questions."""
    found = (_helped(report), _withheld(report), _survived(report), _cost(report))
    return [verdict for verdict in found if verdict is not None]


def spoken(interval: Interval, digits: int = 3) -> str:
    """An interval in words, signed."""
    low = figures.number(interval.low, digits, signed=True)
    return f"{low} to {figures.number(interval.high, digits, signed=True)}"


def _finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _helped(report: Report) -> Verdict | None:
    base, best = report.arm("base"), report.arm("artifact") or report.shipped_arm()
    change = gain(report, base, best) if base and best else None
    if base is None or best is None or change is None:
        return None
    name = figures.metric_name(report.task.metric)
    direction = "higher" if report.task.higher_is_better else "lower"
    evidence = [
        f"{base.name} → {best.name}.",
        f"{change.queries} held-out {'query' if change.queries == 1 else 'queries'}, {direction} is better.",
    ]
    if change.difference is not None:
        mean = figures.number(change.difference.estimate, signed=True)
        evidence.append(f"Difference {mean}, 95{figures.THIN}% interval {spoken(change.difference)}.")
    if change.tone == "unsure":
        evidence.append("This many queries cannot tell the difference from chance.")
    history = report.arm("history")
    if history is not None and report.task.metric in history.metrics:
        evidence.append(f"{history.name}: {figures.number(history.metrics[report.task.metric])}.")
    return Verdict(
        question="Did personalisation help?",
        answer={"good": "Yes", "bad": "No, it got worse", "unsure": "Not shown"}[change.tone],
        tone=change.tone,
        figures=((f"{figures.number(change.before)} → {figures.number(change.after)}", name),),
        evidence=tuple(evidence),
        anchor="quality",
    )


def _withheld(report: Report) -> Verdict | None:
    if report.withheld is None:
        return None
    helps = "more examples, another finetune.learning_rate, more finetune.epochs"
    return Verdict(
        question="Is there a bundle?",
        answer="No",
        tone="bad",
        figures=(),
        evidence=(
            f"{report.withheld[:1].upper()}{report.withheld[1:]}.",
            f"What helps: {helps}; or ship it all the same with --set finetune.guard=false.",
        ),
        anchor="caveats",
    )


def _survived(report: Report) -> Verdict | None:
    check = report.verification
    if check is None:
        return None
    failed = [one.name for one in check.checks if not one.passed]
    evidence = [
        f"The adapter's change to the logits, artifact against float: worst query "
        f"{figures.number(check.correlation_worst)}, {figures.percent(check.size_ratio)} of its size."
    ]
    if check.top1_agreement is not None:
        evidence.append(f"Same most likely token in {figures.percent(check.top1_agreement, 1)} of positions.")
    tuned, artifact = report.shipped_arm(), report.arm("artifact")
    drift = gain(report, tuned, artifact) if tuned and artifact else None
    if drift is not None:
        name = figures.metric_name(report.task.metric)
        after = figures.number(drift.after)
        evidence.append(f"{name} {figures.number(drift.before)} in float, {after} in the artifact.")
    answer: tuple[str, Tone] = ("Yes", "good") if check.checks else ("No thresholds set", "unsure")
    if failed:
        evidence.append(f"Outside its threshold: {', '.join(failed)}.")
        answer = ("No", "bad")
    elif drift is not None and drift.tone == "bad":
        evidence.append("The logits' change is there, and yet the answers got worse beyond chance.")
        answer = ("Only in part", "unsure")
    return Verdict(
        question="Did it survive quantisation?",
        answer=answer[0],
        tone=answer[1],
        figures=((figures.number(check.correlation_mean), "mean correlation"),),
        evidence=tuple(evidence),
        anchor="survival",
    )


def _cost(report: Report) -> Verdict | None:
    total = sum(file.bytes for file in report.files)
    measured = report.benchmark
    if not total and measured is None:
        return None
    total = total or (measured.environment.bundle.bytes if measured else 0)
    evidence = []
    if report.float_bytes and total:
        evidence.append(f"{figures.percent(total / report.float_bytes)} of the float model's size.")
    answer: tuple[str, Tone] = ("Not measured", "unsure")
    main = [(figures.size(total), "on disk")]
    if measured is not None:
        statistics = measured.shown
        valid = measured.validity.valid
        answer = ("Valid run", "good") if valid else ("Run not valid", "unsure")
        rate = decode_rate(statistics)
        if rate is not None:
            main.append((figures.significant(rate.median), "tokens/s"))
        evidence += _speed(measured, statistics)
        if not valid:
            first, *others = measured.validity.reasons
            more = f" (and {len(others)} more)" if others else ""
            evidence.append(f"Not to be relied on: {first}{more}.")
    return Verdict(
        question="How big, how fast?",
        answer=answer[0],
        tone=answer[1],
        figures=tuple(main),
        evidence=tuple(evidence),
        anchor="speed" if measured else "size",
    )


def decode_rate(statistics: dict[str, Statistic]) -> Statistic | None:
    """The decode rate at the smallest depth that was measured."""
    names = [name for name in statistics if name.startswith("decode_rate_at_")]
    return statistics[min(names, key=lambda name: int(name.rpartition("_")[2]))] if names else None


def _speed(measured: Result, statistics: dict[str, Statistic]) -> list[str]:
    sentences = []
    if (ttft := statistics.get("ttft")) is not None:
        sentences.append(
            f"First token after {figures.quantity(ttft.median, 's')} with a prompt of "
            f"{measured.setting.prompt_tokens} tokens."
        )
    if (peak := statistics.get("peak_rss")) is not None:
        sentences.append(f"Peak memory {figures.size(peak.median)}.")
    cpu = measured.environment.facts.get("board") or measured.environment.facts.get("cpu")
    threads = measured.setting.threads
    if cpu:
        spoken_threads = f", {threads} thread{'s' * (threads != 1)}" if threads else ""
        sentences.append(f"Device: {cpu}{spoken_threads}.")
    return sentences
