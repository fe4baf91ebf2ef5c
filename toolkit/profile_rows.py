"""Reading rows: one user with a whole history, or one example; every field checked against the task."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from toolkit.errors import ProfileError
from toolkit.profile_formats import Record
from toolkit.profiles import Example
from toolkit.tasks import Task, builtin_name

Placed = tuple[str, Example, str]
_TIMES = ("time", "date")
_HISTORIES = ("history", "profile")
_QUERIES = ("queries", "more_queries")


def with_users(records: Iterable[Record], path: Path) -> Iterator[tuple[str, Record]]:
    """Each record with the user it belongs to: by its user_id, its question id, else the file's own name.

    Raises ProfileError where some records name a user and others do not.
    """
    named: set[bool] = set()
    for record in records:
        name, found = _first(record.row, ("user_id", "id") if is_user_row(record) else ("user_id",))
        is_named = found not in (None, "")
        named.add(is_named)
        if len(named) > 1:
            mend = "Say in every row whose it is, or in none if the file holds one user"
            raise ProfileError("'user_id' is in some rows and not in others", where=record.where, mend=mend)
        own_name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
        yield (_identifier(found, name, record.where) if is_named else own_name), record


def is_user_row(record: Record) -> bool:
    """Whether a record is of one user, with the whole history, and not of one example."""
    if any(name in record.row for name in _HISTORIES):
        return True
    has_split = record.split is not None or "split" in record.row
    return not has_split and any(name in record.row for name in ("query", *_QUERIES))


def check_task(record: Record, task: Task) -> None:
    """Refuse a row that says it is of another built-in task; its prompts and labels would not fit."""
    said = record.row.get("task")
    named = builtin_name(said) if isinstance(said, str) else None
    if named is not None and builtin_name(task.name) not in (None, named):
        raise ProfileError(
            f"these examples are of task {named}, not {task.name}",
            where=record.where,
            mend=f"Choose the task {named}, or remove the field 'task'",
        )


def read_example_row(record: Record, task: Task) -> tuple[str, Example]:
    """The split (history or query) and the example of a row with one example."""
    row, where = record.row, record.where
    _, said = _first(row, ("split",))
    split = said or record.split
    if split is None:
        raise _missing(("split",), where)
    if split not in ("history", "query"):
        raise ProfileError(f"unknown split {_shown(split)}", where=where, mend="Accepted: history, query")
    if split == "history":
        return split, _history_example(row, task, where)
    inputs, outputs = ("input", task.input_field), ("output", task.output_field)
    return split, _query_example(row, task, where, inputs, outputs)


def read_user_row(record: Record, task: Task, user: str) -> Iterator[Placed]:
    """The (split, example, where) of a row with a user's history and queries, history first."""
    row, where = record.row, record.where
    if _first(row, _HISTORIES)[1] is None:
        raise _missing(_HISTORIES, where)
    for item, place in _items(row, _HISTORIES, "history item", where):
        yield "history", _history_example(item, task, place), place
    if _first(row, ("query", "input"))[1] is not None:
        _, query_id = _first(row, ("query_id", "id") if record.is_question else ("query_id",))
        query = {**row, "id": query_id or f"{user}-query"}
        yield "query", _query_example(query, task, where, ("query", "input"), ("gold", "output")), where
    inputs, outputs = ("query", "input", task.input_field), ("gold", "output", task.output_field)
    for item, place in _items(row, _QUERIES, "query", where):
        yield "query", _query_example(item, task, place, inputs, outputs), place


def oldest_first(examples: Sequence[Example]) -> list[Example]:
    """Examples by time; equal times keep their order, and examples without a time keep their places."""
    dated = [example for example in examples if example.time is not None]
    in_order = iter(sorted(dated, key=lambda example: _seconds(example.time or "")))
    return [example if example.time is None else next(in_order) for example in examples]


def _history_example(row: Mapping[str, Any], task: Task, where: str) -> Example:
    names = ("input", task.input_field)
    found = _first(row, names)[1] is not None or task.history_needs_input
    text = _text(row, names, where) if found else ""
    names = ("output", task.output_field)
    if not task.history_has_answers:
        return _example(row, text, _text(row, names, where), where)
    return _example(row, text, _gold(row, task, names, where), where)


def _query_example(
    row: Mapping[str, Any], task: Task, where: str, inputs: Sequence[str], outputs: Sequence[str]
) -> Example:
    text = task.raw_input(_text(row, inputs, where))
    if not text.strip():
        raise _empty("the query", where)
    known = _first(row, outputs)[1] not in (None, "")
    return _example(row, text, _gold(row, task, outputs, where) if known else "", where)


def _example(row: Mapping[str, Any], text: str, output: str, where: str) -> Example:
    name, found = _first(row, ("id",))
    if found is None:
        raise _missing(("id",), where)
    return Example(_identifier(found, name, where), text, output, _time(row, where))


def _time(row: Mapping[str, Any], where: str) -> str | None:
    """The row's time as text, if it has one; readable, so that it can be sorted by."""
    name, found = _first(row, _TIMES)
    if isinstance(found, date):
        found = found.isoformat()
    if isinstance(found, bool) or not isinstance(found, str | int | None):
        raise _wrong_type(name, found, "a date as text", where)
    text = "" if found is None else str(found).strip()
    try:
        _seconds(text or "1970")
    except (ValueError, OverflowError):
        mend = "Write times as 2024-09-03 or 2024-09-03T10:30, or leave the field out"
        raise ProfileError(f"{name!r} is {_shown(text)}, not a date", where=where, mend=mend) from None
    return text or None


def _gold(row: Mapping[str, Any], task: Task, names: Sequence[str], where: str) -> str:
    """A gold answer: a text, or one of the task's labels (which may be written as a number)."""
    name, found = _first(row, names)
    if not task.labels:
        return _text(row, names, where)
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = str(found)
    text = _text({**row, name: found}, names, where)
    label = task.gold(text)
    if label is None:
        accepted = f"Accepted: {', '.join(task.labels)}"
        raise ProfileError(
            f"{name!r} is {_shown(text)}, not one of the task's labels", where=where, mend=accepted
        )
    return label


def _text(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    name, found = _first(row, names)
    if found is None:
        raise _missing(names, where)
    if not isinstance(found, str):
        raise _wrong_type(name, found, "a text", where)
    if not found.strip():
        raise _empty(f"{name!r}", where)
    return _encodable(found, name, where)


def _items(
    row: Mapping[str, Any], names: Sequence[str], noun: str, where: str
) -> Iterator[tuple[Mapping[str, Any], str]]:
    name, found = _first(row, names)
    if found is None:
        return
    if not isinstance(found, list):
        raise _wrong_type(name, found, "a list", where)
    for number, item in enumerate(found, start=1):
        place = f"{where}, {noun} {number}"
        if not isinstance(item, dict):
            raise _wrong_type(noun, item, "an object", place)
        yield item, place


def _first(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """The first of `names` that the row has, with its value; the first name and None if it has none."""
    return next(((name, row[name]) for name in names if row.get(name) is not None), (names[0], None))


def _identifier(found: object, name: str, where: str) -> str:
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise _wrong_type(name, found, "a text or a whole number", where)
    if not str(found).strip():
        raise _empty(f"{name!r}", where)
    return _encodable(str(found).strip(), name, where)


def _encodable(text: str, name: str, where: str) -> str:
    """`text`, refused if UTF-8 cannot hold it: JSON may spell out half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        mend = "Write characters beyond U+FFFF as themselves, or as both of their \\u escapes"
        raise ProfileError(f"{name!r} holds half a character", where=where, mend=mend) from None
    return text


def _seconds(time: str) -> float:
    """Seconds since 1970 of ISO 8601, of LaMP's year, year-month or date, or of such seconds themselves.

    A time without a zone is taken as UTC. Raises ValueError or OverflowError if it is none of these.
    """
    if re.fullmatch(r"\d{9,11}", time):
        return float(time)
    parts = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", time)
    if parts:
        year, month, day = (int(part or 1) for part in parts.groups())
        return datetime(year, month, day, tzinfo=UTC).timestamp()
    moment = datetime.fromisoformat(time)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _missing(names: Sequence[str], where: str) -> ProfileError:
    first, *others = dict.fromkeys(names)
    also = f" (or {', '.join(map(repr, others))})" if others else ""
    return ProfileError(f"no field {first!r}{also}", where=where, mend=f"Add {first!r} to it")


def _empty(what: str, where: str) -> ProfileError:
    return ProfileError(f"{what} is empty", where=where, mend="Fill it in, or remove the example")


def _wrong_type(name: str, found: object, wanted: str, where: str) -> ProfileError:
    return ProfileError(f"{name!r} is {_shown(found)}", where=where, mend=f"Make it {wanted}")


def _shown(found: object) -> str:
    shown = repr(found)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
