"""What the verbs share: options, recipes from flags, tables and JSON."""

import json
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from toolkit.errors import printable
from toolkit.progress import Progress, terminal_progress
from toolkit.recipe import Recipe, read_recipe, recipe_from_dict, replace_fields

WIDTH = 80
_SET_HELP = "Change a recipe field, such as finetune.epochs=3. Repeatable."
PATH = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for programs.")
adapter_option = click.option(
    "--adapter", metavar="NAME", help="The person, of those attached to the bundle, who answers."
)
task_adapter_option = click.option(
    "--task-adapter", type=PATH, help="Adapter folder that is merged into the base first."
)
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")
bundle_argument = click.argument("bundle", type=PATH)


def recipe_options() -> Callable[[Any], Any]:
    """Options from which `recipe_of` makes a recipe: a file, or flags, or flags on top of a file."""

    def decorate(function: Any) -> Any:
        needed = " Needed unless --recipe has it."
        options = [
            click.option("--profile", metavar="PATH", help=f"The person's examples.{needed}"),
            click.option("--task", metavar="NAME|FILE", help=f"Built-in task or a task file.{needed}"),
            click.option("--user", metavar="ID", help="Which person, if the profile holds several."),
            click.option("--model", metavar="SOURCE", help="Base model (Hub id, folder, .gguf, pypi:...)."),
            click.option("--recipe", "recipe_file", type=PATH, help="Take everything else from this recipe."),
            click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help=_SET_HELP),
        ]
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def recipe_of(
    *,
    profile: str | None,
    task: str | None,
    user: str | None,
    model: str | None,
    recipe_file: Path | None,
    changes: Sequence[str],
    more: dict[str, Any] | None = None,
) -> Recipe:
    """The recipe that the options of `recipe_options` describe; click.UsageError if too little is given."""
    given = {"profile": profile, "task": task, "user": user, "model": model, **(more or {})}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    fields |= parse_changes(changes)
    if recipe_file is not None:
        return replace_fields(read_recipe(recipe_file), fields, paths_from=Path.cwd())
    for name in ("profile", "task"):
        if name not in fields:
            raise click.UsageError(f"Give --{name}, or a --recipe that has it.")
    first = {"profile": fields.pop("profile"), "task": fields.pop("task")}
    return replace_fields(recipe_from_dict(first, "command line"), fields, paths_from=Path.cwd())


def parse_changes(changes: Sequence[str]) -> dict[str, str]:
    """FIELD=VALUE texts as a dict; click.UsageError for one without `=`."""
    fields = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set {change!r}: write it as FIELD=VALUE, such as finetune.epochs=3.")
        fields[name.strip()] = value
    return fields


def watch() -> Progress:
    """Bars on standard error where that is a terminal, silence otherwise; standard output stays clean."""
    return terminal_progress()


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def print_table(rows: Iterable[Sequence[str]], *, header: Sequence[str] | None = None) -> None:
    """Aligned columns within 80 characters; the last column is cut where it must be, then the widest.

    Line ends and control characters in a cell (a model's answer, a manifest from elsewhere) become blanks.
    """
    lines = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    everything = [list(header), *lines] if header else lines
    if not everything:
        return
    widths = [max(len(row[column]) for row in everything) for column in range(len(everything[0]))]
    room = WIDTH - 2 * (len(widths) - 1)
    widths[-1] = max(8, min(widths[-1], room - sum(widths[:-1])))
    while sum(widths) > room:
        widths[widths.index(max(widths))] -= 1

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"
            for cell, width in zip(row, widths, strict=True)
        ]
        return "  ".join(cells).rstrip()

    if header:
        click.echo(click.style(line(header), bold=True))
    for row in lines:
        click.echo(line(row))


def print_paragraph(text: str, *, err: bool = False, fg: str | None = None) -> None:
    """Text wrapped to 80 columns between words; `err`: on standard error, `fg`: its colour."""
    wrapped = textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    click.echo(click.style(wrapped, fg=fg) if fg else wrapped, err=err)


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the singular where it is one; the plural is formed by an s."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def short_path(path: Path) -> str:
    """A path relative to here where that is shorter."""
    try:
        relative = path.absolute().relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative) if str(relative) != "." else str(path)


def megabytes(size: int) -> str:
    """Bytes as MB (10^6)."""
    return f"{size / 1e6:.1f} MB"


def figure_text(value: float, unit: str) -> str:
    """A benchmark's figure for a terminal: `831 ms`, `41.3 t/s`, `231.0 MB`, `21,773,018`."""
    from benchmarks.figures import THIN, quantity

    if unit == "bytes":
        return megabytes(int(value))
    if unit == "instructions":
        return f"{value:,.0f}"
    return quantity(value, unit.replace("tokens/s", "t/s")).replace(THIN, " ")


def repeat_command() -> str:
    """The command line that was typed, for reports."""
    return shlex.join(["edgeplm", *sys.argv[1:]])
