"""The result of a benchmark: raw samples first, statistics derived, environment and validity beside them."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.energy import energy
from benchmarks.stats import median_interval, percentile
from runtimes.sustained import SETTLED_MINUTES
from toolkit.errors import EdgePLMError
from toolkit.files import write_atomic
from toolkit.json_dataclass import read_dataclass

SCHEMA = "edgeplm.benchmark"
SCHEMA_VERSION = 1
_TIMES = frozenset({"s", "tokens/s", "W", "J/token"})


@dataclass(frozen=True)
class Statistic:
    """One measured quantity: every value in the order of measurement, and what follows from them.

    `low` and `high` bound the bootstrap confidence interval of the median.
    """

    unit: str
    values: tuple[float, ...]
    median: float
    p10: float
    p90: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float], unit: str) -> "Statistic":
        """Summarise `values`; raises ValueError if there are none or one is not finite."""
        kept = tuple(float(value) for value in values)
        interval = median_interval(kept)
        return cls(
            unit=unit,
            values=kept,
            median=interval.estimate,
            p10=percentile(kept, 10),
            p90=percentile(kept, 90),
            low=interval.low,
            high=interval.high,
        )


@dataclass(frozen=True)
class Setting:
    """What was asked for; `threads` None leaves the number to the runtime, `adapter` None is the base or the
    person who is merged into it, `cores` None leaves the choice to the system."""

    threads: int | None
    prompt_tokens: int
    decode_tokens: int
    repeats: int
    warmup: int
    depths: list[int]
    adapter: str | None = None
    cores: list[int] | None = None


@dataclass(frozen=True)
class BundleFacts:
    """Which artifact was measured."""

    name: str
    manifest_sha256: str
    bytes: int
    base_model: str
    runtime: str
    precision: str
    adapters: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Environment:
    """Where and with what it was measured; None where the machine does not tell. Degrees Celsius.

    `facts` are those of `runtimes.facts.Facts`; `git` is the commit of EdgePLM's own checkout.
    `frequency_share` is the share of the repeats' time at each frequency (MHz), by cpufreq policy;
    `power_source` is what told the power, and of what.
    """

    device: str
    facts: dict[str, Any]
    bundle: BundleFacts
    versions: dict[str, str]
    governors: list[str] | None = None
    temperature_before: float | None = None
    temperature_highest: float | None = None
    temperature_after: float | None = None
    load_average_before: float | None = None
    git: str | None = None
    frequency_share: dict[str, dict[str, float]] | None = None
    power_source: str | None = None


@dataclass(frozen=True)
class Validity:
    """Whether the figures may be relied on; every reason why not. `notes` say what a reader should know."""

    valid: bool
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """One benchmark of one bundle on one device. `created` is ISO 8601 in UTC."""

    created: str
    setting: Setting
    samples: list[dict[str, Any]]
    environment: Environment
    validity: Validity

    @cached_property
    def statistics(self) -> dict[str, Statistic]:
        """What follows from the samples, without the warm-up; see `derive`."""
        return derive(self.samples)

    @property
    def shown(self) -> dict[str, Statistic]:
        """The statistics that stand for the device: no times and no power where it is emulated, which
        would be those of the emulator."""
        if not self.environment.facts.get("emulated"):
            return self.statistics
        return {name: value for name, value in self.statistics.items() if value.unit not in _TIMES}

    def to_json(self) -> str:
        """The result as JSON; the statistics are written for readers and derived anew when read."""
        document = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        document["statistics"] = {name: dataclasses.asdict(value) for name, value in self.statistics.items()}
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def derive(samples: Iterable[Mapping[str, Any]]) -> dict[str, Statistic]:
    """The statistics of raw samples.

    load_cold, load_warm, ttft [s]; prefill_rate, decode_rate_at_D [tokens/s], one value a repeat;
    decode_step_at_D [s], one value a token; peak_rss, pss [bytes]. TTFT is prefill and the choice of the
    first token, without tokenisation; rates are of the model alone, without sampling.
    sustained_rate [tokens/s] is that of the last minutes (`runtimes.sustained`); energy_prefill,
    energy_decode [J/token] are gross, net_energy_* are above power_idle [W], one value a window.
    instructions_per_prefill_token, instructions_per_decode_token_at_D [instructions], one value a pass.
    """
    values: dict[tuple[str, str], list[float]] = {}

    def add(name: str, unit: str, *new: float) -> None:
        values.setdefault((name, unit), []).extend(new)

    minutes: list[float] = []
    windows: list[Mapping[str, Any]] = []
    for sample in samples:
        kind = sample["kind"]
        if sample.get("warmup"):
            continue
        if kind == "load":
            add(f"load_{sample['state']}", "s", sample["seconds"])
        elif kind == "prefill":
            add("ttft", "s", sample["ttft"])
            add("prefill_rate", "tokens/s", sample["tokens"] / sample["seconds"])
        elif kind == "decode":
            steps = sample["seconds"]
            add(f"decode_rate_at_{sample['depth']}", "tokens/s", len(steps) / sum(steps))
            add(f"decode_step_at_{sample['depth']}", "s", *steps)
        elif kind == "memory" and sample["when"] == "after run":
            for name in ("peak_rss", "pss"):
                if sample[name] is not None:
                    add(name, "bytes", sample[name])
        elif kind == "instructions":
            at = "" if sample["phase"] == "prefill" else f"_at_{sample['depth']}"
            name = f"instructions_per_{sample['phase']}_token{at}"
            add(name, "instructions", sample["count"] / sample["tokens"])
        elif kind == "sustained":
            minutes.append(sample["tokens"] / sample["seconds"])
        elif kind == "energy":
            windows.append(sample)
    for name, unit, number in energy(windows):
        add(name, unit, number)
    if minutes:
        add("sustained_rate", "tokens/s", *minutes[-SETTLED_MINUTES:])
    return {name: Statistic.of(numbers, unit) for (name, unit), numbers in values.items()}


def write_result(result: Result, path: Path) -> None:
    """Write `result` as JSON, atomically."""
    write_atomic(path, result.to_json())


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote; raises EdgePLMError with the file and the field that is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as fault:
        raise EdgePLMError(
            f"cannot be read ({fault.strerror})", where=str(path), mend="Give the JSON file of a benchmark"
        ) from fault
    except UnicodeDecodeError as fault:
        raise EdgePLMError(f"is not UTF-8 (byte {fault.start})", where=str(path)) from fault
    return result_from_json(text, where=str(path))


def result_from_json(text: str, *, where: str = "result") -> Result:
    """The result in a JSON text; raises EdgePLMError for anything that is not one of this version."""
    try:
        document = json.loads(text)
    except ValueError as fault:
        raise EdgePLMError(f"is not JSON ({fault})", where=where, mend="Run the benchmark again") from fault
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise EdgePLMError(
            f'is no benchmark result: its field schema is not "{SCHEMA}"',
            where=where,
            mend="Give the JSON file of a benchmark",
        )
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise EdgePLMError(
            f"schema_version is {version!r}, this EdgePLM reads {SCHEMA_VERSION}",
            where=where,
            mend="Run the benchmark again, or use the EdgePLM that wrote it",
        )
    result: Result = read_dataclass(Result, document, where=where, mend="Run the benchmark again")
    try:
        _ = result.statistics
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as fault:
        raise EdgePLMError(
            f"its samples are damaged ({type(fault).__name__}: {fault})",
            where=where,
            mend="Run the benchmark again",
        ) from fault
    return result
