"""Checking a task's fields: all problems at once, with field, line, what was found and what is accepted."""

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from toolkit.errors import TaskError
from toolkit.metrics import METRICS
from toolkit.tasks.task import Retrieval, Task
from toolkit.yaml_tree import Problem, raise_problems

_FIELDS = tuple(Task.__dataclass_fields__)
_RETRIEVAL_FIELDS = tuple(Retrieval.__dataclass_fields__)
# What a task file may leave out depends on its parser: (metrics, max_new_tokens).
_DEFAULTS = {
    "text": (("rouge_l", "rouge_1"), 128),
    "label": (("accuracy", "macro_f1"), 16),
    "number": (("mae", "rmse"), 8),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def checked_task(data: Mapping[str, Any], *, where: str, lines: Mapping[str, int] | None = None) -> Task:
    """A Task from a task file's fields.

    `lines` gives the line of each field, by its dotted path. Raises TaskError with every problem found.
    """
    checks = Checks(lines or {})
    checks.known_fields(data, _FIELDS)
    name = checks.text(data, "name", None)
    if name is not None and not _NAME.fullmatch(name):
        checks.problem("name", name, "lower-case letters, digits, '.', '_' and '-'")
    prompt = _prompt(checks, data)
    known_parser = _parser(checks, data)
    parser = known_parser or "text"
    metrics, max_new_tokens = _DEFAULTS[parser]
    task = Task(
        name=name or "",
        version=checks.count(data, "version", 1),
        description=checks.text(data, "description", "") or "",
        prompt=prompt,
        input_field=checks.text(data, "input_field", "input") or "input",
        output_field=checks.text(data, "output_field", "output") or "output",
        history_prompt=_history_prompt(checks, data, prompt),
        parser=parser,
        labels=_labels(checks, data, parser) if known_parser else (),
        metrics=_metrics(checks, data, parser, metrics) if known_parser else metrics,
        retrieval=_retrieval(checks, data),
        max_new_tokens=checks.count(data, "max_new_tokens", max_new_tokens),
    )
    raise_problems(checks.problems, where, TaskError)
    return task


class Checks:
    """Collects problems; its readers return a usable value in any case, so that checking can go on."""

    def __init__(self, lines: Mapping[str, int]) -> None:
        self.problems: list[Problem] = []
        self._lines = lines

    def problem(self, field: str, found: object, accepted: str) -> None:
        """Note a problem; `found` None means that nothing is there."""
        shown = "nothing" if found is None else json.dumps(found, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        self._add(field, f"found {shown}; accepted: {accepted}")

    def known_fields(self, data: Mapping[str, Any], fields: Sequence[str], prefix: str = "") -> None:
        """Every key of `data` is one of `fields`; the nearest name is suggested for one that is not."""
        for key in data:
            if key not in fields:
                near = get_close_matches(str(key), fields, n=1)
                hint = f"{near[0]} (did you mean that?)" if near else ", ".join(fields)
                self._add(f"{prefix}{key}", f"found an unknown field; accepted: {hint}")

    def text(self, data: Mapping[str, Any], field: str, default: str | None, prefix: str = "") -> str | None:
        """A text that is not empty; `default` where it is left out, and None means that it may not be."""
        value = data.get(field)
        if value is None:
            if default is None:
                self.problem(prefix + field, None, "a text")
            return default
        if not isinstance(value, str) or not (value.strip() or default == ""):
            self.problem(prefix + field, value, "a text")
            return default
        return value

    def count(self, data: Mapping[str, Any], field: str, default: int) -> int:
        """A whole number from 1."""
        value = data.get(field, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self.problem(field, value, "a whole number from 1")
        return default

    def _add(self, field: str, what: str) -> None:
        # A field that is missing is looked for on the line of the section it is missing from.
        places = (field, field.split("[")[0], field.rpartition(".")[0] or field)
        line = next((self._lines[place] for place in places if place in self._lines), None)
        self.problems.append(Problem(field, what, line))


def _prompt(checks: Checks, data: Mapping[str, Any]) -> str:
    prompt = checks.text(data, "prompt", None)
    if prompt is None:
        return "{input}"
    if prompt.count("{input}") != 1:
        checks.problem("prompt", prompt, "a text with {input} in it exactly once")
    return prompt


def _history_prompt(checks: Checks, data: Mapping[str, Any], prompt: str) -> str:
    history_prompt = checks.text(data, "history_prompt", prompt) or prompt
    if history_prompt != prompt and history_prompt.count("{input}") > 1:
        checks.problem("history_prompt", history_prompt, "a text with {input} in it once or not at all")
    return history_prompt


def _parser(checks: Checks, data: Mapping[str, Any]) -> str | None:
    parser = data.get("parser", "text")
    if isinstance(parser, str) and parser in _DEFAULTS:
        return parser
    checks.problem("parser", parser, ", ".join(_DEFAULTS))
    return None  # what labels and metrics it goes with is then not known either


def _labels(checks: Checks, data: Mapping[str, Any], parser: str) -> tuple[str, ...]:
    found = data.get("labels")
    if parser == "text":
        if found:
            checks.problem("labels", found, "none, because the parser is text (or parser: label, number)")
        return ()
    if not isinstance(found, list | tuple) or len(found) < 2:
        checks.problem("labels", found, f"a list of at least two, because the parser is {parser}")
        return ()
    labels: dict[str, str] = {}
    for index, value in enumerate(found):
        label = str(value).strip() if _is_scalar(value) else ""
        field = f"labels[{index}]"
        if not label:
            checks.problem(field, value, "a text or a number")
        elif parser == "number" and not _is_finite(label):
            checks.problem(field, label, "a number, because the parser is number")
        elif label.casefold() in labels:
            checks.problem(field, label, "each label once (capitals do not matter)")
        else:
            labels[label.casefold()] = label
    return tuple(labels.values())


def _metrics(
    checks: Checks, data: Mapping[str, Any], parser: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    found = data.get("metrics")
    if found is None:
        return default
    fitting = [name for name, metric in METRICS.items() if parser in metric.parsers]
    accepted = f"{', '.join(fitting)}, because the parser is {parser}"
    if not isinstance(found, list | tuple) or not found:
        checks.problem("metrics", found, f"a list of {accepted}")
        return default
    for index, name in enumerate(found):
        if name not in fitting:
            near = get_close_matches(str(name), fitting, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            checks.problem(f"metrics[{index}]", name, accepted + hint)
        elif name in found[:index]:
            checks.problem(f"metrics[{index}]", name, "each metric once")
    return tuple(map(str, found))


def _retrieval(checks: Checks, data: Mapping[str, Any]) -> Retrieval:
    found = data.get("retrieval")
    if found is None:
        return Retrieval()
    if not isinstance(found, Mapping):
        checks.problem("retrieval", found, f"a mapping with {', '.join(_RETRIEVAL_FIELDS)}")
        return Retrieval()
    prefix, plain = "retrieval.", Retrieval()
    checks.known_fields(found, _RETRIEVAL_FIELDS, prefix)
    insert_after = _expression(checks, found, "insert_after", groups=0)
    wrap = checks.text(found, "wrap", plain.wrap if insert_after is None else None, prefix) or plain.wrap
    counts = (wrap.count("{items}"), wrap.count("{prompt}"))
    if insert_after is None and counts != (1, 1):
        checks.problem("retrieval.wrap", wrap, "a text with {items} and {prompt} in it, each once")
    if insert_after is not None and "wrap" in found and counts != (1, 0):
        accepted = "a text with {items} in it once and without {prompt}, because insert_after is given"
        checks.problem("retrieval.wrap", wrap, accepted)
    values = {}
    for field in ("item", "document"):
        values[field] = checks.text(found, field, getattr(plain, field), prefix) or ""
        if "{input}" not in values[field] and "{output}" not in values[field]:
            checks.problem(prefix + field, values[field], "a text with {input} or {output} in it")
    joiner = found.get("joiner", plain.joiner)
    if not isinstance(joiner, str):
        checks.problem("retrieval.joiner", joiner, "a text")
    query = _expression(checks, found, "query", groups=1)
    return Retrieval(joiner=str(joiner), wrap=wrap, insert_after=insert_after, query=query, **values)


def _expression(checks: Checks, data: Mapping[str, Any], field: str, *, groups: int) -> str | None:
    pattern = data.get(field)
    if pattern is None:
        return None
    accepted = "a regular expression" + (" with at least one group" if groups else "")
    if not isinstance(pattern, str) or not pattern:
        checks.problem(f"retrieval.{field}", pattern, accepted)
        return None
    try:
        if re.compile(pattern).groups >= groups:
            return pattern
        checks.problem(f"retrieval.{field}", pattern, accepted)
    except re.error as error:
        checks.problem(f"retrieval.{field}", pattern, f"{accepted} ({error})")
    return None


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _is_finite(text: str) -> bool:
    try:
        return abs(float(text)) != float("inf") and float(text) == float(text)
    except ValueError:
        return False
