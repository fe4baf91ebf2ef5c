"""A YAML file as plain data in which every field still knows its line.

Nothing is constructed from the file: scalars stay text until the field that takes them says what they are
(YAML 1.1 would read `user: 0012` as ten and `5e-4` as text), tags and aliases are refused, and depth and size
are limited.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from toolkit.errors import RecipeError

MAX_BYTES = 128 * 1024
REFUSED = object()  # stands in the tree for a value that is already among its problems
_MAX_DEPTH = 16
_REFUSED_TAG = "refused"
_LONGEST_SHOWN = 60
_SECRETS = (
    (re.compile(r"(?<![A-Za-z])sk-[\w-]{4,}"), "sk-***"),
    (re.compile(r"//[^/\s]*@"), "//***@"),
    (re.compile(r"\?\S+"), "?***"),
)
_HINTS = {
    "found character '\\t' that cannot start any token": "indent with spaces, not with a tab",
    "mapping values are not allowed here": "put a value that holds a colon in quotes; check the indentation",
}


class Plain(str):
    """A scalar written without quotes: its field decides whether it is a number, a text or null."""

    __slots__ = ()

    @property
    def is_null(self) -> bool:
        """Whether YAML reads it as null: nothing at all, `~` or `null`."""
        return self in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the dotted path of its field ("" for the whole file) and its line, from 1."""

    path: str
    what: str
    line: int | None = None

    def __str__(self) -> str:
        place = [f"line {self.line}"] if self.line else []
        place += [masked(self.path)] if self.path else []
        return f"{', '.join(place)}: {self.what}" if place else self.what


@dataclass
class YamlTree:
    """Dicts, lists, `Plain` and (where quoted) `str`; the line of every dotted path; problems so far."""

    data: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def raise_problems(
    problems: Sequence[Problem], where: str, error: type[RecipeError], mend: str | None = None
) -> None:
    """Raise `error` with all `problems` in the order of their lines, if there are any."""
    if problems:
        ordered = sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
        raise error([str(problem) for problem in ordered], where=where, mend=mend)


def masked(text: str) -> str:
    """`text` cut to what fits a message, without what looks like a key or a password."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = text if text.isprintable() else json.dumps(text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def read_text(path: Path, error: type[RecipeError], missing: str | None = None) -> str:
    """The text of a UTF-8 file of at most MAX_BYTES; `missing` is the advice where there is no such file.

    Raises `error` if it is not there, not a file, not readable, too large or not UTF-8 (with the line).
    """
    where = str(path)
    if path.is_dir():
        raise error(["is a folder; name the file in it"], where=where)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise error(["no such file"], where=where, mend=missing) from None
    except (OSError, ValueError) as fault:  # ValueError: a NUL character in the path
        reason = getattr(fault, "strerror", None) or str(fault)
        raise error([f"cannot be read: {reason}"], where=where) from fault
    if len(content) > MAX_BYTES:
        raise error([f"is larger than {MAX_BYTES // 1024} KiB, which no file of this kind is"], where=where)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        problem = Problem("", "not UTF-8 text; save the file as UTF-8", line)
        raise error([str(problem)], where=where) from None


def parse_yaml(text: str, where: str, error: type[RecipeError] = RecipeError) -> YamlTree:
    """The tree of one YAML document; aliases, tags and keys given twice are in its `problems`.

    Raises `error` with line and column if the text is not YAML.
    """
    try:
        composer = _Composer(text)
        node = composer.get_single_node()
    except yaml.MarkedYAMLError as fault:
        raise error([_syntax_problem(fault)], where=where) from None
    except yaml.reader.ReaderError as fault:
        line = text.count("\n", 0, fault.position) + 1
        what = f"the character U+{fault.character:04X} is not allowed in YAML"
        raise error([str(Problem("", what, line))], where=where) from None
    tree = YamlTree()
    if node is not None:
        tree.data = _plain_data(node, "", tree)
    return tree


class _Composer(yaml.SafeLoader):
    """PyYAML's safe composer, which marks aliases and tags instead of following them."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            self.get_event()
            return yaml.ScalarNode(_REFUSED_TAG, f"the alias *{event.anchor}", mark)
        if self._depth >= _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", mark)
        self._depth += 1
        try:
            node: Any = super().compose_node(parent, index)
        finally:
            self._depth -= 1
        if (tag := getattr(event, "tag", None)) is not None:
            return yaml.ScalarNode(_REFUSED_TAG, f"the YAML tag {tag}", mark)
        return node


def _syntax_problem(fault: yaml.MarkedYAMLError) -> str:
    mark = fault.problem_mark or fault.context_mark
    what = fault.problem or fault.context or "cannot be read"
    if fault.problem and fault.context and fault.context_mark:
        what += f", {fault.context} from line {fault.context_mark.line + 1}"
    if hint := _HINTS.get(fault.problem or ""):
        what += f"; {hint}"
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}not YAML: {what}"


def _plain_data(node: yaml.Node, path: str, tree: YamlTree) -> Any:
    tree.lines.setdefault(path, node.start_mark.line + 1)
    if node.tag == _REFUSED_TAG:
        what = f"found {masked(node.value)}; accepted: the value itself"
        tree.problems.append(Problem(path, what, node.start_mark.line + 1))
        return REFUSED
    if isinstance(node, yaml.ScalarNode):
        return str(node.value) if node.style else Plain(node.value)
    if isinstance(node, yaml.SequenceNode):
        items = [_plain_data(item, path, tree) for item in node.value]
        return REFUSED if REFUSED in items else items
    data: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag == _REFUSED_TAG:
            what = "found a key that is not plain text; accepted: a field name"
            tree.problems.append(Problem(path, what, line))
            continue
        inner = f"{path}.{key.value}" if path else str(key.value)
        if key.value in data:
            what = f"given twice; the first is on line {tree.lines[inner]}"
            tree.problems.append(Problem(inner, what, line))
            continue
        tree.lines[inner] = line
        data[key.value] = _plain_data(value, inner, tree)
    return data
