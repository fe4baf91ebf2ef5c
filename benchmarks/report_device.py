"""What a run did to its device: heat, clock and rate over time, and the time at each frequency."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from benchmarks import figures, plots
from benchmarks.results import Result
from runtimes.sensors import hottest

# Fewer points are no course.
_LEAST_POINTS = 3


@dataclass(frozen=True)
class Course:
    """A plot over the repeats or minutes of a run, with what stands below it."""

    plot: Markup
    caption: str


def courses(result: Result, number: int = 0) -> list[Course]:
    """Temperature and clock by repeat, and the sustained rate by minute; `number` tells devices apart.

    None of an emulated device, whose times and heat are those of the emulator.
    """
    if result.environment.facts.get("emulated"):
        return []
    repeats = [
        sample
        for sample in result.samples
        if sample["kind"] == "sensors" and sample["when"] == "during" and not sample["warmup"]
    ]
    minutes = [sample for sample in result.samples if sample["kind"] == "sustained"]
    found = [
        _course(f"heat-{number}", "Temperature", [hottest(each) for each in repeats], "°C", "repeat"),
        _course(f"clock-{number}", "Clock", [_clock(each) for each in repeats], "MHz", "repeat"),
        _course(
            f"sustained-{number}",
            "Sustained decode",
            [each["tokens"] / each["seconds"] for each in minutes],
            "tokens/s",
            "minute",
            _outcome(result),
        ),
        _course(
            f"warming-{number}",
            "Temperature while decoding without a pause",
            [each["celsius"] for each in minutes],
            "°C",
            "minute",
        ),
    ]
    return [course for course in found if course is not None]


def run_facts(result: Result) -> list[tuple[str, str]]:
    """Cores, power source and the share of time at each frequency, as label and value; what is known."""
    facts = []
    if result.setting.cores is not None:
        facts.append(("Bound to cores", ", ".join(map(str, result.setting.cores))))
    if result.environment.power_source is not None:
        facts.append(("Power", result.environment.power_source))
    for policy, shares in (result.environment.frequency_share or {}).items():
        told = [f"{mhz} MHz {figures.percent(share)}" for mhz, share in shares.items() if share >= 0.005]
        facts.append((f"Time at each clock, {policy}", ", ".join(told)))
    return facts


def _course(
    name: str, title: str, values: list[float | None], unit: str, step: str, outcome: str = ""
) -> Course | None:
    known = [value for value in values if value is not None]
    if len(known) < _LEAST_POINTS or len(known) < len(values):
        return None
    plot = plots.line_plot(name, title, [(title, known)], f"{title} in {unit}", step=step)
    first, last = (f"{figures.significant(value)}{figures.THIN}{unit}" for value in (known[0], known[-1]))
    return Course(plot, f"{title} by {step}: {first} at first, {last} at last.{outcome}")


def _clock(sample: dict[str, Any]) -> float | None:
    """The mean clock of the repeat's fastest policy, or else the highest clock read after it."""
    means = [
        sum(float(mhz) * seconds for mhz, seconds in policy.items()) / sum(policy.values())
        for policy in (sample.get("frequency_seconds") or {}).values()
        if policy
    ]
    return max(means or [mhz for mhz in sample["frequency_mhz"] or [] if mhz], default=None)


def _outcome(result: Result) -> str:
    end = next((sample for sample in result.samples if sample["kind"] == "sustained end"), None)
    if end is None:
        return ""
    return " It settled." if end["settled"] else " It had not settled yet."
