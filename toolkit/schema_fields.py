"""One field of a settings class: its rule, the phrases that describe it, and the values that fit it."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.yaml_tree import Plain, masked

RULE = "edgeplm.rule"
_LARGEST_INT = 2**63 - 1
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]{0,30})")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_TYPE_NAMES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    tuple: "list of texts",
}


@dataclass(frozen=True)
class Rule:
    """What a field means and which values it takes.

    `test` is for what limits and choices cannot say, and `accepts` says it in words. A `secret` field's value
    is never repeated in a message.
    """

    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    accepts: str = ""
    test: Callable[[Any], bool] | None = None
    secret: bool = False


@dataclass(frozen=True)
class Spec:
    """One field: its type (`None` apart), its default (dataclasses.MISSING if required) and its rule.

    `item`: the settings class that a list holds, for a tuple of sections.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    rule: Rule
    item: Any = None

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    @property
    def is_section(self) -> bool:
        """Whether the field holds another settings class."""
        return self.kind not in _TYPE_NAMES

    @property
    def type_name(self) -> str:
        """The type in words."""
        if self.item is not None:
            return "list of sections"
        return _TYPE_NAMES[self.kind] + (" or null" if self.optional else "")

    @property
    def limits(self) -> str:
        """What is taken within the type, in words; empty where that is all of it."""
        if self.kind is tuple and self.default == () and not self.rule.accepts:
            return ""
        if self.kind in (str, tuple) and not self.rule.accepts and not self.rule.choices:
            return "not empty"
        rule = self.rule
        if rule.accepts:
            return rule.accepts
        if rule.choices:
            *first, last = map(str, rule.choices)
            return f"{', '.join(first)} or {last}" if first else last
        if rule.at_least is not None and rule.at_most is not None:
            return f"from {number(rule.at_least)} to {number(rule.at_most)}"
        bounds = {
            "at least": rule.at_least,
            "above": rule.above,
            "at most": rule.at_most,
            "below": rule.below,
        }
        return " and ".join(f"{word} {number(bound)}" for word, bound in bounds.items() if bound is not None)

    @property
    def accepted(self) -> str:
        """Which values are taken, as one phrase for messages and comments."""
        if self.item is not None:
            return "list of sections, or []"
        phrase = self.limits
        if not self.rule.accepts and not self.rule.choices:
            joint = ", " if self.kind in (str, tuple) and self.limits else " "
            phrase = f"{_TYPE_NAMES[self.kind]}{joint}{self.limits}".strip()
        return f"{phrase}, or null" if self.optional else phrase


def number(value: float) -> str:
    """A limit without a needless decimal point."""
    return str(int(value)) if value == int(value) else repr(value)


def fit(spec: Spec, given: Any) -> Any:
    """`given` in the field's own type; ValueError if it is not a value that the field takes."""
    value = _typed(spec.kind, given)
    if value is None and spec.optional:
        return None
    if spec.kind is tuple and isinstance(value, list | tuple):
        value = tuple(_typed(str, item) for item in value)
    if spec.kind is float and type(value) is int and abs(value) <= _LARGEST_INT:
        value = float(value)
    if value == () and spec.default == ():
        return value
    if type(value) is not spec.kind or not _is_sound(value) or not _is_allowed(spec.rule, value):
        raise ValueError(spec.name)
    return value


def shown(given: Any, *, secret: bool = False) -> str:
    """A value as a message shows it: short, and without what may be a key or a password."""
    if is_null(given):
        return "nothing"
    if secret:
        return "something that is not shown here, as it may be a key"
    if isinstance(given, list | tuple):
        return "a list" if given else "an empty list"
    if isinstance(given, dict):
        return "a section" if given else "an empty section"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, Plain) and _INT.fullmatch(given) and len(given) > len(str(_LARGEST_INT)):
        return "a number that is too large"
    if isinstance(given, str):
        return masked(given if isinstance(given, Plain) else json.dumps(given, ensure_ascii=False))
    if isinstance(given, int) and abs(given) > _LARGEST_INT:
        return "a number that is too large"
    return repr(given) if isinstance(given, int | float) else f"a Python {type(given).__name__}"


def is_null(given: Any) -> bool:
    """Whether a value is None or an unquoted YAML null."""
    return given is None or (isinstance(given, Plain) and given.is_null)


def _typed(kind: type, given: Any) -> Any:
    """An unquoted scalar as the type that its field asks for, where it can be; anything else as it is."""
    if not isinstance(given, Plain):
        return given
    if given.is_null:
        return None
    if kind is bool:
        return _BOOLS.get(given.lower(), str(given))
    if kind is int and _INT.fullmatch(given):
        return int(given)
    if kind is float and _FLOAT.fullmatch(given):
        return float(given)
    return str(given)


def _is_sound(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip()) and "\0" not in value and not re.search("[\ud800-\udfff]", value)
    if isinstance(value, tuple):
        return bool(value) and all(type(item) is str and _is_sound(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return abs(value) <= _LARGEST_INT


def _is_allowed(rule: Rule, value: Any) -> bool:
    return (
        (rule.at_least is None or value >= rule.at_least)
        and (rule.above is None or value > rule.above)
        and (rule.at_most is None or value <= rule.at_most)
        and (rule.below is None or value < rule.below)
        and (not rule.choices or value in rule.choices)
        and (rule.test is None or rule.test(value))
    )
