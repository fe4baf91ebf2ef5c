"""What the agent is asked to do: one JSON document, checked on both sides. Standard library only."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.errors import DeviceError


@dataclass(frozen=True)
class Plan:
    """One run of the agent on a device.

    The latency part runs when `repeats` is above 0, the quality part when `prompts_ids` has prompts; a plan
    needs at least one of them. `depths` are the tokens already in the KV cache before the timed decode steps,
    capped so that the decode fits the context length. `adapter` is the attached adapter that answers (none:
    the base, or the person who is merged into it). `settle_seconds` is the longest wait for a quiet, cool
    machine before the first load (0: no wait), and for the temperature to return between repeats.

    `cores` binds the process to cores: their numbers, or "fast" for all but the slowest cluster. Where power
    can be read, each window that meters it lasts `energy_seconds` (0: none). `sustained_minutes` above 0 adds
    a decode without a pause, for so long at most. `score_ids` are texts whose likelihood is computed.
    With `golden` the prompts of the bundle's manifest are asked again (`runtimes.golden`).
    With `count_instructions` the run counts what prefill and decode take, in one thread, and nothing else.
    """

    bundle: str
    threads: int | None = None
    adapter: str | None = None
    prompt_tokens: int = 128
    decode_tokens: int = 64
    repeats: int = 5
    warmup: int = 1
    depths: tuple[int, ...] = (0, 256)
    prompts_ids: tuple[tuple[int, ...], ...] = ()
    max_new_tokens: int = 64
    stop_ids: tuple[int, ...] = ()
    settle_seconds: float = 0.0
    cores: tuple[int, ...] | str | None = None
    energy_seconds: float = 5.0
    sustained_minutes: float = 0.0
    score_ids: tuple[tuple[int, ...], ...] = ()
    count_instructions: bool = False
    golden: bool = False

    def __post_init__(self) -> None:
        found = [
            f"{name}: found {getattr(self, name)!r}, accepted: {accepted}"
            for name, (accepted, fits) in _ACCEPTED.items()
            if not fits(getattr(self, name))
        ]
        asked = self.repeats, self.prompts_ids, self.score_ids, self.sustained_minutes, self.golden
        if not found and self.count_instructions and (any(asked) or self.threads != 1):
            found = ["count_instructions: a run that counts has one thread and does nothing else"]
        if not found and not self.count_instructions and not any(asked):
            found = ["nothing to do: repeats is 0 and prompts_ids is empty"]
        if found:
            raise DeviceError("; ".join(found), where="plan of the run")

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values; `plan_from_dict` reads it back.

        What came after the first version is left out unless it is asked for, so that an older agent goes on.
        """
        usual = {field.name: field.default for field in dataclasses.fields(self) if field.name in _LATER}
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in usual or value != usual[name]
        }


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _positive(value: object) -> bool:
    return _count(value) and value != 0


def _counts(value: object) -> bool:
    return isinstance(value, tuple) and all(_count(item) for item in value)


def _named(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _cores(value: object) -> bool:
    return value is None or value == "fast" or (_counts(value) and value != ())


_LATER = ("cores", "energy_seconds", "sustained_minutes", "score_ids", "count_instructions", "golden")
_NATURAL = ("a whole number from 0", _count)
_ACCEPTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bundle": ("the path of a bundle folder", _named),
    "threads": ("a whole number from 1, or none", lambda value: value is None or _positive(value)),
    "adapter": ("the name of an attached adapter, or none", lambda value: value is None or _named(value)),
    "prompt_tokens": ("a whole number from 1", _positive),
    "decode_tokens": ("a whole number from 1", _positive),
    "repeats": _NATURAL,
    "warmup": _NATURAL,
    "depths": ("one or more whole numbers from 0", lambda value: _counts(value) and bool(value)),
    "prompts_ids": (
        "lists of one or more token ids",
        lambda value: isinstance(value, tuple) and all(_counts(ids) and ids for ids in value),
    ),
    "max_new_tokens": ("a whole number from 1", _positive),
    "stop_ids": ("a list of token ids", _counts),
    "settle_seconds": ("seconds from 0", _amount),
    "cores": ('"fast", core numbers, or none', _cores),
    "energy_seconds": ("seconds from 0", _amount),
    "sustained_minutes": ("minutes from 0", _amount),
    "score_ids": (
        "lists of two or more token ids",
        lambda value: isinstance(value, tuple) and all(_counts(ids) and len(ids) > 1 for ids in value),
    ),
    "count_instructions": ("true or false", lambda value: isinstance(value, bool)),
    "golden": ("true or false", lambda value: isinstance(value, bool)),
}


def plan_from_dict(document: object) -> Plan:
    """The plan in a JSON document; unknown or missing fields and wrong values raise DeviceError."""
    if not isinstance(document, Mapping):
        raise DeviceError("not a JSON object", where="plan of the run")
    known = {field.name for field in dataclasses.fields(Plan)}
    unknown = sorted(set(document) - known)
    if unknown:
        raise DeviceError(
            f"unknown field {', '.join(unknown)}; accepted: {', '.join(sorted(known))}",
            where="plan of the run",
        )
    if "bundle" not in document:
        raise DeviceError("the field bundle is missing", where="plan of the run")
    return Plan(**{name: _as_tuple(value) for name, value in document.items()})


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
