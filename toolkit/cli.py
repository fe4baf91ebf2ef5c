"""The command line: a dispatcher that imports a verb only when it is asked for."""

import errno
import importlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from toolkit import __version__
from toolkit.errors import EdgePLMError, printable

VERBS = (
    "demo", "personalize", "init", "run", "augment", "finetune", "fleet", "export", "adapters", "verify",
    "eval", "devices", "bench", "compare", "chat", "inspect", "doctor",
)  # fmt: skip


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"toolkit.commands.{cmd_name}").command
        return command


@click.command(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.version_option(__version__, prog_name="edgeplm")
def cli() -> None:
    """Personalised language models for phones and single-board computers.

    Start with `edgeplm demo`, or `edgeplm personalize` on examples of your own. Exit codes: 0 done, 1
    something you can mend, 2 wrong usage, 3 a check fell short.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors a user can mend are one line on standard error."""
    run_to_exit(lambda: cli.main(arguments, prog_name="edgeplm", standalone_mode=False))


def run_to_exit(work: Callable[[], Any]) -> NoReturn:
    """Do `work` and end the process with the exit code that it returns, or that its error stands for."""
    try:
        returned = work()
        status = returned if isinstance(returned, int) else 0
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. The same command goes on where it stopped.", err=True)
        status = 130
    except EdgePLMError as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        status = error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("toolkit", "exporters", "runtimes", "benchmarks"):
            raise
        click.echo(
            f"Error: this needs the package {error.name}. `edgeplm doctor` says what is missing.", err=True
        )
        status = 1
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output went away
            sys.stderr.close()
            sys.exit(0)
        if error.errno is None:  # some library's, and not about a file
            raise
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {place}{error.strerror}. Nothing half-written was kept.", err=True)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
