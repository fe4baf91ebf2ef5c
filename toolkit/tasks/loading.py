"""Finding a task: a built-in one by its name, or a person's own from its YAML file."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from toolkit.errors import TaskError
from toolkit.tasks.checking import checked_task
from toolkit.tasks.task import Task
from toolkit.yaml_tree import Plain, parse_yaml, raise_problems, read_text


def load_task(name_or_path: str | Path) -> Task:
    """A built-in task by name (lamp-3, LaMP-3, LaMP_3 and lamp3 are the same), or a task file.

    Raises TaskError: no such task or file, or the file's problems, all of them.
    """
    name = builtin_name(str(name_or_path))
    if name is not None:
        return _builtin(name)
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return _own_task(path)
    near = get_close_matches(str(name_or_path).lower(), builtin_tasks(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    problem = f"no such task; accepted: {', '.join(builtin_tasks())}, or the path of a .yaml file{hint}"
    raise TaskError([problem], where=str(name_or_path))


@lru_cache(maxsize=1)
def builtin_tasks() -> list[str]:
    """The names of the built-in tasks."""
    folder = files("toolkit.tasks") / "builtin"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def builtin_name(text: str) -> str | None:
    """The built-in task that `text` names, in whatever spelling; None if it names none."""
    name = re.sub(r"^lamp[-_ ]?(?=\d)", "lamp-", text.strip().lower())
    return name if name in builtin_tasks() else None


@lru_cache(maxsize=16)
def _builtin(name: str) -> Task:
    entry = files("toolkit.tasks") / "builtin" / f"{name}.yaml"
    return _task_from_text(entry.read_text(encoding="utf-8"), where=f"{name}.yaml")


def _own_task(path: Path) -> Task:
    text = read_text(path, TaskError, missing="Check the path")
    task = _task_from_text(text, where=str(path))
    if builtin_name(task.name) and task != _builtin(task.name):
        problem = (
            f"name: found {task.name!r}, a built-in task that says something else; accepted: another name"
        )
        raise TaskError([problem], where=str(path))
    return task


def _task_from_text(text: str, *, where: str) -> Task:
    tree = parse_yaml(text, where, TaskError)
    raise_problems(tree.problems, where, TaskError)
    data = _valued(tree.data)
    if not isinstance(data, Mapping):
        problem = "found no fields; accepted: a mapping, at least with name and prompt"
        raise TaskError([problem], where=where)
    return checked_task(data, where=where, lines=tree.lines)


def _valued(value: Any) -> Any:
    """Whole numbers and nulls for what was written without quotes; all else is text, labels above all.

    YAML itself would read the labels yes and no as true and false, and 1.50 as 1.5.
    """
    if isinstance(value, Mapping):
        return {key: _valued(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_valued(item) for item in value]
    if isinstance(value, Plain):
        if value.is_null:
            return None
        return int(value) if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) else str(value)
    return value
