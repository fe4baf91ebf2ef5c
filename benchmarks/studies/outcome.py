"""The result of an export study: raw samples first, statistics derived, machine and versions beside them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.results import derive
from benchmarks.stats import median, percentile
from benchmarks.validity import judge
from toolkit.errors import EdgePLMError
from toolkit.files import write_atomic
from toolkit.json_dataclass import read_dataclass

SCHEMA = "edgeplm.export-study"
SCHEMA_VERSION = 1
# What `benchmarks.results.derive` calls the figures of a run; the decode rate's name ends in its depth.
FIGURES = ("load_cold", "load_warm", "ttft", "decode_rate", "peak_rss")


@dataclass(frozen=True)
class Setting:
    """What was asked for. `model` is a source, `reference` the subject that ratios refer to.

    A round opens each artifact once, in a fresh process, with one warm-up and `repeats` measurements.
    """

    model: str
    threads: int = 1
    rounds: int = 5
    windows: int = 8
    prompt_tokens: int = 128
    decode_tokens: int = 64
    repeats: int = 3
    settle_seconds: float = 30.0
    reference: str | None = None


@dataclass(frozen=True)
class Made:
    """What making an artifact cost, in its own process: seconds, processor seconds, peak RSS in bytes."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Quality:
    """Against the float model on one text, a value a window: negative log-likelihood and KL in nats.

    `sha256` is of the windows' token ids.
    """

    nll: list[float]
    nll_float: list[float]
    kl: list[float]
    same_top: list[float]
    sha256: str

    @property
    def perplexity(self) -> float:
        """Of the artifact."""
        return math.exp(_mean(self.nll))

    @property
    def perplexity_float(self) -> float:
        """Of the float model, on the same windows."""
        return math.exp(_mean(self.nll_float))

    @property
    def mean_kl(self) -> float:
        """KL(float || artifact) of the next token, in nats."""
        return _mean(self.kl)

    @property
    def mean_same_top(self) -> float:
        """Share of positions where both have the same most likely token."""
        return _mean(self.same_top)


@dataclass(frozen=True)
class Figure:
    """One figure over the rounds; `ratio` is the median of its ratios to the reference in the same round."""

    values: list[float]
    median: float
    p10: float
    p90: float
    ratio: float | None


@dataclass(frozen=True)
class Measured:
    """One artifact: `bytes` of all its files, one list of the agent's samples for each round."""

    name: str
    family: str
    option: str
    bytes: int
    made: Made | None
    quality: dict[str, Quality]
    runs: list[list[dict[str, Any]]]

    def values(self, figure: str) -> list[float]:
        """One value a round: the median of the run's repeats."""
        return [_figure_of(samples, figure) for samples in self.runs]


@dataclass(frozen=True)
class Study:
    """An export study; `created` is ISO 8601 in UTC. `left_out` says why a subject is missing.

    `failed` are those left out that crashed, rather than refused the model or were not installed.
    """

    created: str
    command: str
    setting: Setting
    model_sha256: str
    reference: str
    machine: dict[str, Any]
    versions: dict[str, str]
    subjects: list[Measured]
    left_out: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @cached_property
    def figures(self) -> dict[str, dict[str, Figure]]:
        """The figures of each subject by name, derived from the samples."""
        by_name = {subject.name: subject for subject in self.subjects}
        base = by_name.get(self.reference)
        return {
            name: {figure: _summary(subject, base, figure) for figure in FIGURES}
            for name, subject in by_name.items()
        }

    @cached_property
    def disturbed(self) -> dict[str, int]:
        """How many of a subject's runs may not be relied on, as `benchmarks.validity` judges; not 0."""
        threads = self.setting.threads
        counts = {
            subject.name: sum(not judge(samples, threads).valid for samples in subject.runs)
            for subject in self.subjects
        }
        return {name: count for name, count in counts.items() if count}

    def to_json(self) -> str:
        """The study as JSON; the figures are written for readers and derived anew when read."""
        document = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        document["disturbed"] = self.disturbed
        document["figures"] = {
            name: {figure: dataclasses.asdict(value) for figure, value in figures.items()}
            for name, figures in self.figures.items()
        }
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_study(study: Study, path: Path) -> None:
    """Write `study` as JSON, atomically."""
    write_atomic(path, study.to_json())


def read_study(path: Path) -> Study:
    """Read what `write_study` wrote; raises EdgePLMError with the file and the field that is wrong."""
    mend = "Run the study again"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise EdgePLMError(f"cannot be read ({fault})", where=str(path), mend=mend) from fault
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise EdgePLMError(f'is no export study: its field schema is not "{SCHEMA}"', where=str(path))
    if document.get("schema_version") != SCHEMA_VERSION:
        raise EdgePLMError(
            f"schema_version is {document.get('schema_version')!r}, this EdgePLM reads {SCHEMA_VERSION}",
            where=str(path),
            mend=mend,
        )
    study: Study = read_dataclass(Study, document, where=str(path), mend=mend)
    return study


def _figure_of(samples: list[dict[str, Any]], figure: str) -> float:
    statistics: Mapping[str, Any] = derive(samples)
    return float(next(value.median for name, value in statistics.items() if name.startswith(figure)))


def _summary(subject: Measured, base: Measured | None, figure: str) -> Figure:
    values = subject.values(figure)
    ratios = [own / other for own, other in zip(values, base.values(figure), strict=True)] if base else []
    return Figure(
        values,
        median(values),
        percentile(values, 10),
        percentile(values, 90),
        median(ratios) if ratios else None,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
