"""`optimum-cli export edgeplm`: the command `edgeplm export`, offered by optimum as well.

optimum finds this file by its place. No folder above it has an __init__.py: they are a namespace that several
packages share. optimum reads this file whatever it is asked for, so nothing heavy is imported here.
"""

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class EdgePLMExportCommand(BaseOptimumCLICommand):
    """Hands its arguments to `edgeplm export`, which alone knows them."""

    COMMAND = CommandInfo(
        "edgeplm", help="Export a personalised model: base and adapter in, verified bundle out."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Take everything, `--help` too, as it is: no character starts an option of this parser."""
        parser.prefix_chars = "\0"
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self) -> None:
        """Run the command; it ends the program with its own exit code."""
        from toolkit.cli import main

        main(["export", *self.args.arguments])


REGISTER_COMMANDS = [(EdgePLMExportCommand, ExportCommand)]
