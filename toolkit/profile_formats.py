"""Opening files of examples: every form becomes a stream of records, a row and the place it was read from."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import ProfileError
from toolkit.json_array import array_items

_HEAD = 1 << 16  # characters in which a form shows itself; a file may be a single line of gigabytes
_LONGEST_CELL = 1 << 24  # characters; csv's own limit of 131,072 is shorter than some articles
_COLUMNS = {"user_id", "task", "split", "id", "input", "output", "time", "date"}
_DATASET_SPLITS = {"history": "history", "train": "history", "query": "query", "test": "query"}
_FORMS = (
    "Accepted: LaMP's questions.json and outputs.json, JSON lines, CSV with a header, a Hugging Face "
    "datasets folder"
)


@dataclass(frozen=True)
class Record:
    """A row, and `where` it was read, for messages.

    `split` is that of the dataset's split it is in; `is_question` marks a row of LaMP's questions file.
    """

    where: str
    row: Mapping[str, Any]
    split: str | None = None
    is_question: bool = False


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file or folder as a stream, at least one; ProfileError where it cannot be read."""
    if not path.exists():
        raise ProfileError("no such file or folder", where=str(path), mend="Check the path")
    found = False
    try:
        for record in _folder(path) if path.is_dir() else _file(path):
            found = True
            yield record
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        mend = "Check that it is complete and that you may read it"
        raise ProfileError(f"cannot be read ({reason})", where=str(path), mend=mend) from None
    except UnicodeDecodeError:
        where = f"{path}, line {_undecodable_line(path)}"
        raise ProfileError("not UTF-8", where=where, mend="Save the file as UTF-8") from None
    if not found:
        raise ProfileError("holds no examples", where=str(path), mend=_FORMS)


def _folder(folder: Path) -> Iterator[Record]:
    if any((folder / name).exists() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return _dataset(folder)
    questions = [file for file in sorted(folder.glob("*.json")) if _outputs_beside(file)]
    if len(questions) == 1:
        return _lamp_or_rows(questions[0])
    if not questions:
        raise ProfileError("holds neither a questions file nor a dataset", where=str(folder), mend=_FORMS)
    names = ", ".join(file.name for file in questions)
    raise ProfileError("holds several questions files", where=str(folder), mend=f"Name one of them: {names}")


def _file(path: Path) -> Iterator[Record]:
    with _open_text(path) as file:
        first_line = file.read(_HEAD).lstrip().split("\n", 1)[0]
    if first_line.startswith("["):
        return _lamp_or_rows(path)
    if first_line.startswith("{"):
        return _json_object(path) if first_line.strip() == "{" else _json_lines(path)
    delimiter, known = _delimiter(first_line)
    if known >= 2 or path.name.removesuffix(".gz").endswith((".csv", ".tsv")):
        return _csv_rows(path, delimiter)
    what = "neither JSON nor CSV with a known header" if first_line else "empty"
    raise ProfileError(what, where=f"{path}, line 1", mend=_FORMS)


def _json_lines(path: Path) -> Iterator[Record]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield Record(f"{path}, line {number}", _json_row(line.rstrip(), path, number))


def _json_object(path: Path) -> Iterator[Record]:
    """One object over many lines: a single user's row."""
    with _open_text(path) as file:
        yield Record(str(path), _json_row(file.read(), path, 1))


def _json_row(text: str, path: Path, line: int) -> Mapping[str, Any]:
    """The object in a piece of text that begins on `line`."""
    where, mend = f"{path}, line {line}", "Write one JSON object on each line"
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line + error.lineno - 1}"
        what = f"not JSON ({error.msg}, column {error.colno})"
        raise ProfileError(what, where=where, mend=mend) from None
    except (ValueError, RecursionError):
        what = "not JSON (a number that is too long, or values nested too deeply)"
        raise ProfileError(what, where=where, mend=mend) from None
    if isinstance(row, dict) and isinstance(row.get("golds"), list):
        mend = "Give the questions file, or the folder that holds both"
        raise ProfileError("these are LaMP's outputs, without the questions", where=where, mend=mend)
    return _as_row(row, where)


def _as_row(row: object, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ProfileError(f"found {json.dumps(row)[:40]}", where=where, mend="Each row is an object: {...}")
    return row


def _lamp_or_rows(path: Path) -> Iterator[Record]:
    """A JSON array of rows; LaMP's questions get their golds from the outputs file beside them, if any."""
    outputs = _outputs_beside(path)
    said, golds = _golds(outputs) if outputs and outputs.exists() else ({}, None)
    with _open_text(path) as file:
        for number, item in enumerate(array_items(file, str(path)), start=1):
            where = f"{path}, record {number}"
            row = _as_row(item, where)
            is_question = "profile" in row and "input" in row
            if is_question and row.get("id") is None:
                raise ProfileError("no field 'id'", where=where, mend="Add the question's id")
            if is_question and golds is not None:
                if str(row["id"]) not in golds:
                    mend = "Give every question an output, or move the outputs file away"
                    raise ProfileError(f"no output for question {row['id']!r}", where=where, mend=mend)
                row = {**said, **row, "gold": golds[str(row["id"])]}
            yield Record(where, row, is_question=is_question)


def _outputs_beside(questions: Path) -> Path | None:
    """Where the outputs of a LaMP questions file would be; None if it is not named like one."""
    if questions.name == "questions.json" or questions.name.endswith("_questions.json"):
        return questions.with_name(f"{questions.name.removesuffix('questions.json')}outputs.json")
    return None


def _golds(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task said, if any, and the outputs by question id: {"task": ..., "golds": [{"id", "output"}]}."""
    mend = 'Write {"task": "LaMP_3", "golds": [{"id": "1", "output": "5"}]}'
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        where = f"{path}, line {_undecodable_line(path)}"
        raise ProfileError("not UTF-8", where=where, mend="Save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}"
        raise ProfileError(f"not JSON ({error.msg})", where=where, mend=mend) from None
    entries = content.get("golds") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ProfileError("has no list of golds", where=str(path), mend=mend)
    golds: dict[str, Any] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, record {number}"
        if not isinstance(entry, dict) or entry.get("id") is None or entry.get("output") is None:
            raise ProfileError("has no id or no output", where=where, mend=mend)
        if str(entry["id"]) in golds:
            raise ProfileError(f"the id {entry['id']!r} is given twice", where=where, mend="Keep one of them")
        golds[str(entry["id"])] = entry["output"]
    said = {"task": content["task"]} if isinstance(content, dict) and "task" in content else {}
    return said, golds


def _csv_rows(path: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] = []
        start = 1
        try:
            for cells in reader:
                where, start = f"{path}, line {start}", reader.line_num + 1
                if not any(cell.strip() for cell in cells):
                    continue
                if not header:
                    header = _header(cells, where)
                    continue
                if len(cells) != len(header):
                    what = f"{len(cells)} cells where the header has {len(header)}"
                    raise ProfileError(what, where=where, mend='Put cells with commas between quotes: "a, b"')
                yield Record(where, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            where = f"{path}, line {start}"
            raise ProfileError(f"not CSV ({error})", where=where, mend='Write " in a cell as ""') from None


def _header(cells: list[str], where: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    repeated = next((name for name in header if header.count(name) > 1), None)
    if repeated is not None:
        raise ProfileError(f"the column {repeated!r} is given twice", where=where, mend="Rename one of them")
    return header


def _delimiter(header: str) -> tuple[str, int]:
    """The delimiter that gives a CSV header the most known columns, and how many these are."""
    best = (",", 0)
    for delimiter in (",", ";", "\t"):
        cells = next(csv.reader([header], delimiter=delimiter), [])
        known = sum(cell.strip() in _COLUMNS for cell in cells)
        best = (delimiter, known) if known > best[1] else best
    return best


def _dataset(folder: Path) -> Iterator[Record]:
    try:
        from datasets import ClassLabel, Dataset, load_from_disk
    except ImportError:
        mend = 'Install the extra: pip install "edgeplm[datasets]"'
        raise ProfileError("needs the datasets library", where=str(folder), mend=mend) from None
    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"not a datasets folder that can be read ({error})"
        raise ProfileError(what, where=str(folder), mend="Write it anew with save_to_disk") from None
    splits = {None: loaded} if isinstance(loaded, Dataset) else dict(loaded)
    for name, rows in splits.items():
        place = str(folder) if name is None else f"{folder}, split {name}"
        classes = {key: kind for key, kind in rows.features.items() if isinstance(kind, ClassLabel)}
        for number, row in enumerate(rows, start=1):
            named = {key: kind.int2str(row[key]) for key, kind in classes.items() if row[key] is not None}
            split = None if name is None else _DATASET_SPLITS.get(name, name)
            yield Record(f"{place}, row {number}", {**row, **named}, split=split)


def _open_text(path: Path) -> io.TextIOWrapper:
    """A file as UTF-8 text, unzipped if it is gzip by content; line ends stay as they are."""
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="")


def _open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzip else path.open("rb")


def _undecodable_line(path: Path) -> int:
    """The first line that is not UTF-8, counted from 1."""
    with _open_bytes(path) as file:
        number = 0
        for number, line in enumerate(file, start=1):  # noqa: B007
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                break
        return number
