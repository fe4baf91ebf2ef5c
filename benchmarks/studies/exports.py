"""The export study: `python -m benchmarks.studies.exports --out DIR`. See `docs/export-study.md`."""

import shlex
import sys
from pathlib import Path

import click

from benchmarks.studies.drawing import size_against_kl
from benchmarks.studies.outcome import Setting, Study, write_study
from benchmarks.studies.study import run_study
from benchmarks.studies.subjects import REFERENCE, SUBJECTS
from benchmarks.studies.tables import HEADER, markdown, notes, terminal_rows
from toolkit.cli import run_to_exit
from toolkit.commands.common import PATH, json_option, print_paragraph, print_table, short_path, watch
from toolkit.files import write_atomic
from toolkit.models import DEFAULT_SOURCE

_COUNT = click.IntRange(min=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.option("--out", type=PATH, required=True, help="Folder of the study; one that was cut off goes on.")
@click.option("--model", default=DEFAULT_SOURCE, show_default=True, metavar="SOURCE", help="Base model.")
@click.option("--rounds", type=_COUNT, default=5, show_default=True, help="Runs of every artifact.")
@click.option("--only", multiple=True, metavar="NAME", help=f"Of: {', '.join(SUBJECTS)}. Repeatable.")
@click.option("--reference", metavar="NAME", help=f"What ratios refer to  [default: {REFERENCE}].")
@click.option("--threads", type=_COUNT, default=1, show_default=True)
@click.option("--windows", type=_COUNT, default=8, show_default=True, help="Of each text, for KL.")
@click.option("--settle", type=click.FloatRange(min=0), default=30, show_default=True,
              help="Longest wait for a quiet machine before each run, in seconds.")  # fmt: skip
@json_option
def command(
    out: Path,
    model: str,
    rounds: int,
    only: tuple[str, ...],
    reference: str | None,
    threads: int,
    windows: int,
    settle: float,
    as_json: bool,
) -> int:
    """Size, cost, speed, memory and quality of our exports and of other tools'.

    Writes exports.json, exports.md and exports.svg into the folder. Exit code 3 if
    a subject crashed; one that is not installed or refuses the model is left out.
    """
    setting = Setting(
        model=model,
        threads=threads,
        rounds=rounds,
        windows=windows,
        settle_seconds=settle,
        reference=reference,
    )
    study = run_study(setting, out, only, command=_typed(), progress=watch())
    write_study(study, out / "exports.json")
    write_atomic(out / "exports.md", markdown(study))
    write_atomic(out / "exports.svg", size_against_kl(study, "encyclopaedic"))
    if as_json:
        click.echo(study.to_json(), nl=False)
    else:
        _show(study, out)
    return 3 if study.failed else 0


def main() -> None:
    """Run the study; errors a user can mend are one line on standard error."""
    run_to_exit(lambda: command.main(standalone_mode=False))


def _show(study: Study, out: Path) -> None:
    print_table(terminal_rows(study), header=HEADER)
    for line in notes(study):
        print_paragraph(line)
    click.echo(f"Written: {short_path(out / 'exports.json')}, exports.md, exports.svg")


def _typed() -> str:
    return shlex.join(["python", "-m", "benchmarks.studies.exports", *sys.argv[1:]])


if __name__ == "__main__":
    main()
