"""The pages of the documentation that are made from the code: docs/commands.md and docs/recipe.md.

python -m toolkit.reference docs
"""

from pathlib import Path

import click

from toolkit.cli import VERBS, cli
from toolkit.files import write_atomic
from toolkit.recipe import recipe_reference

_HELP_WIDTH = 78  # what click leaves of a terminal of 80 columns

_COMMANDS_INTRODUCTION = """\
# The commands

What `edgeplm --help` and `edgeplm VERB --help` print at 80 columns. This page is made from the commands
themselves with `make docs`, and a test checks that it is up to date.

Every verb has a function under it that does the same from Python: see [python.md](python.md). The fields that
`--set FIELD=VALUE` changes are in [recipe.md](recipe.md).

Exit codes: 0 done; 1 something you can mend; 2 wrong usage; 3 the work was done and a check fell short; 130
interrupted.
"""


def command_reference() -> str:
    """docs/commands.md: the help of the program and of every verb."""
    top = click.Context(cli, info_name="edgeplm", terminal_width=_HELP_WIDTH, **cli.context_settings)
    sections = [_COMMANDS_INTRODUCTION, _section("edgeplm", cli.get_help(top))]
    for verb in VERBS:
        command = cli.get_command(top, verb)
        if command is not None:
            sections += _sections(command, verb, top)
    return "\n".join(sections)


def _sections(command: click.Command, name: str, parent: click.Context) -> list[str]:
    """A command's help, and that of the commands below it."""
    context = click.Context(command, parent=parent, info_name=name)
    made = [_section(context.command_path, command.get_help(context))]
    for below, each in getattr(command, "commands", {}).items():
        made += _sections(each, below, context)
    return made


def reference_pages() -> dict[str, str]:
    """Every generated page: its text by its file name in the documentation's folder."""
    return {"commands.md": command_reference(), "recipe.md": recipe_reference()}


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.rstrip()}\n```\n"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Write the generated pages into FOLDER, the documentation's."""
    for name, text in reference_pages().items():
        write_atomic(folder / name, text)
        click.echo(f"Wrote {folder / name}")


if __name__ == "__main__":
    main()
