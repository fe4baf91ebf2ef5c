"""Frozen dataclasses as the schema of a YAML file: each field carries its help, limits and default.

A settings class says everything once; validation, the commented file and the reference are made from it:

    @dataclass(frozen=True, kw_only=True)
    class Training(Settings):
        epochs: int = setting(4, "Passes over the examples.", at_least=1)

A field is a bool, int, float, str, tuple[str, ...], a section (another settings class, whose docstring is its
help) or a list of sections: tuple[Training, ...]. A scalar may be `| None`. Values are checked wherever a
settings object is built, from Python or from a file, and all problems are reported at once.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from toolkit.errors import RecipeError
from toolkit.schema_fields import RULE, Rule, Spec, fit, is_null, shown
from toolkit.yaml_tree import REFUSED, Plain, Problem, YamlTree, parse_yaml, raise_problems, read_text

S = TypeVar("S", bound="Settings")
_SPECS: dict[type, tuple[Spec, ...]] = {}
_MOST_UNKNOWN = 20
_ALIKE, _ALIKE_ELSEWHERE = 0.6, 0.75


@dataclass(frozen=True)
class Conflict:
    """Fields that are right each by itself and wrong together; reported at the first of `fields`."""

    fields: tuple[str, ...]
    what: str


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A field with its help text; `...` as the default makes it required; `limits` are those of Rule."""
    metadata = {RULE: Rule(help, **limits)}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Settings:
    """Base of settings dataclasses: building one checks its values and brings them to the fields' types."""

    def __post_init__(self) -> None:
        given = {spec.name: getattr(self, spec.name) for spec in specs(type(self))}
        values, problems = _check(type(self), YamlTree(given))
        raise_problems(problems, type(self).__name__, RecipeError)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[Conflict]:
        """Override to report fields that contradict each other.

        The values of fields that are wrong by themselves are their defaults (None if required), and a
        conflict that names such a field is dropped.
        """
        yield from ()

    def as_dict(self) -> dict[str, Any]:
        """Nested dicts and lists, as JSON and YAML hold them and as `from_dict` reads them."""
        values = {spec.name: getattr(self, spec.name) for spec in specs(type(self))}
        return {name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str, error: type[RecipeError] = RecipeError) -> Self:
        """The settings that `data` gives, defaults for the rest; raises `error` with all its problems."""
        return _build(cls, YamlTree(data), where, error)


def specs(cls: type[Settings]) -> tuple[Spec, ...]:
    """The settings among the fields of `cls`, in the order in which they are declared."""
    if cls not in _SPECS:
        _SPECS[cls] = tuple(_find_specs(cls))
    return _SPECS[cls]


def all_paths(cls: type[Settings]) -> dict[str, Spec]:
    """Every field by its dotted path, sections before what is in them."""
    paths: dict[str, Spec] = {}
    for spec in specs(cls):
        paths[spec.name] = spec
        if spec.is_section:
            paths |= {f"{spec.name}.{inner}": found for inner, found in all_paths(spec.kind).items()}
    return paths


def read_settings(
    cls: type[S], path: Path, error: type[RecipeError] = RecipeError, missing: str | None = None
) -> S:
    """Read a YAML file as `cls`; `missing` is the advice where there is no such file, or nothing in it.

    Raises `error` with every problem: its line, field path, what was found and what is accepted.
    """
    tree = parse_yaml(read_text(path, error, missing), str(path), error)
    if is_null(tree.data):
        raise error(["the file is empty"], where=str(path), mend=missing)
    return _build(cls, tree, str(path), error)


def replaced(settings: S, changes: Mapping[str, Any], where: str) -> S:
    """A copy in which the fields at dotted paths have other values, checked as in a file.

    A text is YAML for a value of the field's type (for a text field: itself, unless it is quoted, so that a
    path needs no quotes); anything else is taken as the value. Raises RecipeError with every problem.
    """
    tree = YamlTree(settings.as_dict())
    paths = all_paths(type(settings))
    for path, value in changes.items():
        spec = paths.get(path)
        if spec is None:
            start, _, name = path.rpartition(".")
            inside = start in paths and paths[start].is_section
            what = _unknown(name if inside else path, f"{start}." if inside else "", type(settings))
            tree.problems.append(Problem(path, what))
        elif spec.is_section:
            inner = ", ".join(f"{path}.{name}" for name in all_paths(spec.kind))
            tree.problems.append(Problem(path, f"is a section; accepted: a field of it ({inner})"))
        else:
            *sections, name = path.split(".")
            target = functools.reduce(lambda data, part: data[part], sections, tree.data)
            target[name] = _from_text(spec, path, value, tree) if isinstance(value, str) else value
    changed = _build(type(settings), tree, where, RecipeError)
    values = {spec.name: getattr(changed, spec.name) for spec in specs(type(settings))}
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]


def _find_specs(cls: type[Settings]) -> Iterator[Spec]:
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint = hints[item.name]
        parts = () if typing.get_origin(hint) is tuple else typing.get_args(hint)
        kind = tuple if typing.get_origin(hint) is tuple else parts[0] if parts else hint
        rule = item.metadata.get(RULE)
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield Spec(item.name, kind, False, kind(), Rule(kind.__doc__ or ""))
        elif rule is not None:
            listed = typing.get_args(hint)[0] if kind is tuple else None
            is_item = isinstance(listed, type) and issubclass(listed, Settings)
            yield Spec(item.name, kind, type(None) in parts, item.default, rule, listed if is_item else None)


def _build(cls: type[S], tree: YamlTree, where: str, error: type[RecipeError]) -> S:
    if tree.data is REFUSED:
        raise_problems(tree.problems, where, error)
    if not isinstance(tree.data, Mapping):
        what = f"found {shown(tree.data)}; accepted: fields, one `name: value` a line"
        raise_problems([*tree.problems, Problem("", what, tree.lines.get(""))], where, error)
    values, problems = _check(cls, tree)
    raise_problems([*tree.problems, *problems], where, error)
    return cls(**values)


def _check(
    cls: type[Settings], tree: YamlTree, prefix: str = "", root: type[Settings] | None = None
) -> tuple[dict[str, Any], list[Problem]]:
    """The values of `cls` in the tree's mapping, defaults where one is wrong or not given, and what is wrong.

    `prefix` ("" or "section.") is where in `root` this mapping lies.
    """
    root = root or cls
    values: dict[str, Any] = {}
    problems = _unknown_fields(cls, tree, prefix, root)
    wrong = set()
    for spec in specs(cls):
        path = prefix + spec.name
        value, faults = _check_field(spec, path, tree, root)
        values[spec.name] = value
        if faults or tree.data.get(spec.name) is REFUSED:
            wrong.add(spec.name)
            problems += faults
    for conflict in cls.conflicts(values):
        if wrong.isdisjoint(name.partition(".")[0] for name in conflict.fields):
            places = [tree.lines[prefix + name] for name in conflict.fields if prefix + name in tree.lines]
            line = places[0] if places else None
            problems.append(Problem(prefix + conflict.fields[0], conflict.what, line))
    return values, problems


def _unknown_fields(cls: type[Settings], tree: YamlTree, prefix: str, root: type[Settings]) -> list[Problem]:
    known = {spec.name for spec in specs(cls)}
    unknown = [str(name) for name in tree.data if name not in known]
    problems = [
        Problem(prefix + name, _unknown(name, prefix, root), tree.lines.get(prefix + name))
        for name in unknown[:_MOST_UNKNOWN]
    ]
    if more := len(unknown) - len(problems):
        problems.append(Problem(prefix.rstrip("."), f"and {more} more fields that do not exist"))
    return problems


def _check_field(spec: Spec, path: str, tree: YamlTree, root: type[Settings]) -> tuple[Any, list[Problem]]:
    line = tree.lines.get(path)
    default = None if spec.is_required else spec.default
    if spec.name not in tree.data:
        if not spec.is_required:
            return default, []
        section_line = tree.lines.get(path.rpartition(".")[0]) if "." in path else None
        return default, [Problem(path, f"missing; accepted: {spec.accepted}", section_line)]
    given = tree.data[spec.name]
    if given is REFUSED:
        return default, []
    if spec.item is not None:
        return _check_list(spec, path, given, line)
    if not spec.is_section:
        try:
            return fit(spec, given), []
        except ValueError:
            what = f"found {shown(given, secret=spec.rule.secret)}; accepted: {spec.accepted}"
            return default, [Problem(path, what, line)]
    if isinstance(given, Mapping):
        inner = YamlTree(given, tree.lines)
        values, problems = _check(spec.kind, inner, f"{path}.", root)
        return (default, problems) if problems else (spec.kind(**values), [])
    if isinstance(given, spec.kind):
        return given, []
    if is_null(given):  # what is left when every field of the section is commented out
        return default, []
    names = ", ".join(inner_spec.name for inner_spec in specs(spec.kind))
    return default, [Problem(path, f"found {shown(given)}; accepted: a section with {names}", line)]


def _check_list(spec: Spec, path: str, given: Any, line: int | None) -> tuple[Any, list[Problem]]:
    """The sections of a list; a problem in one is named by its place, counted from 1."""
    if not isinstance(given, list | tuple):
        return spec.default, [Problem(path, f"found {shown(given)}; accepted: {spec.accepted}", line)]
    items, problems = [], []
    for place, each in enumerate(given, 1):
        where = f"{path} {place}"
        if isinstance(each, spec.item):
            items.append(each)
        elif isinstance(each, Mapping):
            values, faults = _check(spec.item, YamlTree(each))
            problems += [Problem(f"{where}: {fault.path}", fault.what, line) for fault in faults]
            items += [] if faults else [spec.item(**values)]
        else:
            names = ", ".join(inner.name for inner in specs(spec.item))
            what = f"found {shown(each)}; accepted: a section with {names}"
            problems.append(Problem(where, what, line))
    return (spec.default, problems) if problems else (tuple(items), [])


def _unknown(name: str, prefix: str, root: type[Settings]) -> str:
    """What to say of a field that does not exist: the likeliest ones that do, or all that are accepted."""
    from difflib import SequenceMatcher

    here = {path: spec for path, spec in all_paths(root).items() if path == prefix + spec.name}
    likeness = SequenceMatcher(b=name.rpartition(".")[2])
    found: dict[str, float] = {}
    for path, spec in all_paths(root).items():
        likeness.set_seq1(spec.name)
        ratio = likeness.ratio()
        if ratio >= (_ALIKE if path in here else _ALIKE_ELSEWHERE):
            found[path] = ratio
    if found:
        best = [path for path, ratio in found.items() if ratio == max(found.values())]
        likely = [path for path in best if path in here] or best
        return f"no such field; did you mean {' or '.join(likely)}?"
    return f"no such field; accepted: {', '.join(spec.name for spec in here.values())}"


def _from_text(spec: Spec, path: str, text: str, tree: YamlTree) -> Any:
    """A value given as text for one field; what is wrong with its YAML is added to the tree's problems."""
    stripped = text.strip()
    if spec.kind is not tuple and stripped[:1] not in ('"', "'"):
        is_text = spec.kind is str and not (spec.optional and Plain(stripped).is_null)
        return text if is_text else Plain(stripped)
    try:
        parsed = parse_yaml(text, path)
    except RecipeError as error:
        tree.problems += [Problem(path, problem) for problem in error.problems]
        return _plain(spec.default)
    tree.problems += [Problem(path, problem.what) for problem in parsed.problems]
    return parsed.data


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.as_dict()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
