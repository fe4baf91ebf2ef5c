"""The personalisation study: `python -m benchmarks.studies.personalisation --out DIR --people FILE`.

Whether a person's adapter answers better than the base model, and whether synthetic examples make it better
still, over many people. See `docs/personalisation-study.md`. What is done is kept in DIR, person by person,
so that a killed study goes on.
"""

import json
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.studies.people import Person, read_people
from benchmarks.studies.personalisation_arms import (
    BASE,
    UNSELECTED,
    Setting,
    ask_teacher,
    is_written,
    study_person,
    synthetic_examples,
    with_unselected,
)
from benchmarks.studies.personalisation_drawing import drawing
from benchmarks.studies.personalisation_outcome import markdown, notes, summary, terminal_rows
from benchmarks.studies.teacher import teacher_server
from runtimes.facts import machine_facts
from toolkit import __version__
from toolkit.cli import run_to_exit
from toolkit.commands.common import (
    PATH,
    json_option,
    print_json,
    print_paragraph,
    print_table,
    short_path,
    watch,
)
from toolkit.errors import EdgePLMError
from toolkit.files import write_atomic
from toolkit.fleet.plan import key_of
from toolkit.models import DEFAULT_SOURCE, BaseModel, resolve_model
from toolkit.progress import Progress
from toolkit.recipe import is_endpoint
from toolkit.recipe_augment import PATTERN, STYLES

_COUNT = click.IntRange(min=1)
_RECORD = "study.json"
_MAY_CHANGE = ("users", "unselected")  # without touching what is done
_LIBRARIES = ("torch", "transformers", "peft", "llguidance")


def personalisation_study(
    base: BaseModel,
    people: Sequence[Person],
    setting: Setting,
    out: Path,
    progress: Progress,
    *,
    together: int = 8,
) -> list[dict[str, Any]]:
    """One row a person, in their order; people are limited as the setting says.

    The teacher is asked for `together` people at a time, so that it can answer them as batches. Raises
    EdgePLMError for an `out` of another study, and where the teacher's server does not answer.
    """
    _claim(out, setting, base)
    limited = [setting.limited(person) for person in people]
    wanted = UNSELECTED if setting.unselected else BASE
    missing = [each for each in limited if wanted not in (_read(out, each) or {"arms": ()})["arms"]]
    with progress.step("Studying", total=len(limited), unit="people") as advance:
        advance(len(limited) - len(missing))
        for start in range(0, len(missing), together):
            _group(base, missing[start : start + together], setting, out, advance)
    return [found for each in limited if (found := _read(out, each))]


def _group(base: BaseModel, people: Sequence[Person], setting: Setting, out: Path, advance: Any) -> None:
    _ask_teacher([each for each in people if not is_written(each, out)], base, setting, out)
    recipe = setting.recipe()
    for person in people:
        examples = synthetic_examples(person, recipe, base, out)
        found = _read(out, person) or study_person(base, person, examples, setting, recipe, out)
        if setting.unselected:
            found = with_unselected(base, person, found, recipe, out)
        write_atomic(_path(out, person), json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        advance(1)


def _ask_teacher(people: Sequence[Person], base: BaseModel, setting: Setting, out: Path) -> None:
    """Have synthetic examples written for `people`; the teacher takes memory for as long as that only.

    A teacher without an address (--set augment.teacher=local) needs no server, and is asked later.
    """
    if not people or not is_endpoint(setting.recipe().augment.teacher):
        return
    with (
        teacher_server(setting.teacher, dtype=setting.teacher_dtype, top_p=setting.teacher_top_p) as address,
        ThreadPoolExecutor(len(people)) as pool,
    ):
        recipe = setting.recipe(address)
        list(pool.map(lambda person: ask_teacher(person, recipe, base, out), people))
        for person in people:  # here, for answers are kept by the address that they came from
            synthetic_examples(person, recipe, base, out)


def report(
    rows: Sequence[dict[str, Any]], person: Person, setting: Setting, about: dict[str, str], out: Path
) -> dict[str, Any]:
    """The study as a JSON object, after writing it, its Markdown and its plot into `out`."""
    found = summary(rows, person.task)
    study = {"about": about, "setting": asdict(setting), "summary": found, "people": list(rows)}
    write_atomic(out / "personalisation.json", json.dumps(study, indent=1, ensure_ascii=False) + "\n")
    write_atomic(out / "personalisation.md", markdown(study))
    plot = drawing(found, person.task.primary_metric, Path(setting.people or setting.task).stem)
    write_atomic(out / "personalisation.svg", plot)
    return study


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.option("--out", type=PATH, required=True, help="Folder of the study; one that was cut off goes on.")
@click.option("--people", type=PATH, help="A profile file; without it, the sample users of the task.")
@click.option("--task", default="lamp-3", show_default=True, metavar="NAME|FILE", help="Its task.")
@click.option("--users", type=_COUNT, default=30, show_default=True, help="How many people, first come.")
@click.option("--least", type=_COUNT, default=4, show_default=True, help="Least history of a person.")
@click.option("--history", type=_COUNT, default=16, show_default=True,
              help="Most examples of a person, the latest.")  # fmt: skip
@click.option("--queries", type=_COUNT, default=4, show_default=True, help="Most held-out queries of one.")
@click.option("--longest", type=_COUNT, default=300, show_default=True, help="Characters kept of an input.")
@click.option("--examples", type=_COUNT, default=8, show_default=True, help="Synthetic examples a person.")
@click.option(
    "--requests", type=_COUNT, default=24, show_default=True, help="Requests to the teacher for one."
)
@click.option("--epochs", type=_COUNT, default=2, show_default=True, help="Passes over the examples.")
@click.option("--retrieved", type=_COUNT, default=2, show_default=True, help="History items in a prompt.")
@click.option(
    "--unselected", is_flag=True, help="Train on unselected synthetic examples too; may be added later."
)
@click.option("--model", default=DEFAULT_SOURCE, show_default=True, metavar="SOURCE", help="Device model.")
@click.option("--teacher", default=DEFAULT_SOURCE, show_default=True, metavar="SOURCE", help="Its teacher.")
@click.option("--teacher-style", type=click.Choice(STYLES), default=PATTERN, show_default=True,
              help="How it is asked: to follow an instruction, or to go on with a pattern.")  # fmt: skip
@click.option("--teacher-dtype", type=click.Choice(["float32", "bfloat16"]), default="float32",
              show_default=True, help="What the teacher computes in.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE",
              help="Change another field of the recipe. Repeatable.")  # fmt: skip
@click.option("--so-far", is_flag=True, help="Only report the people who are done, and study nobody.")
@json_option
def command(out: Path, people: Path | None, model: str, so_far: bool, as_json: bool, **options: Any) -> None:
    """Answers of base, retrieval and adapters on held-out queries, over many people.

    The teacher stands behind a server that this command starts on the loopback
    interface. Writes personalisation.json, .md and .svg into the folder.
    """
    setting = Setting(people=str(people) if people else None, model=model, **options)
    if setting.unselected and not is_endpoint(setting.recipe().augment.teacher):
        raise EdgePLMError("needs a teacher that answers in JSON", where="--unselected", mend="Leave it out")
    everybody = read_people(people, setting.task, setting.users, setting.least)
    if so_far:
        done = sorted((out / "people").glob("*.json"))
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in done]
        if not rows:
            raise EdgePLMError("nobody is done yet", where=str(out))
    else:
        progress = watch()
        rows = personalisation_study(resolve_model(model, progress), everybody, setting, out, progress)
    study = report(rows, everybody[0], setting, _about(out), out)
    if as_json:
        print_json(study)
        return
    header, *cells = terminal_rows(study["summary"], everybody[0].task.primary_metric)
    print_table(cells, header=header)
    for line in notes(study["summary"]):
        print_paragraph(line)
    click.echo(f"Written: {short_path(out)}/personalisation.json, .md and .svg")


def main() -> None:
    """Run the study; errors a user can mend are one line on standard error."""
    run_to_exit(lambda: command.main(standalone_mode=False))


def _path(out: Path, person: Person) -> Path:
    return out / "people" / f"{key_of(person.profile.user_id)}.json"


def _read(out: Path, person: Person) -> dict[str, Any] | None:
    path = _path(out, person)
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def _claim(out: Path, setting: Setting, base: BaseModel) -> None:
    """Note in `out` whose study it is, and of which code; EdgePLMError if it holds another one."""
    mine = {name: value for name, value in asdict(setting).items() if name not in _MAY_CHANGE}
    mine |= {"model_sha256": base.sha256, "changes": list(setting.changes)}
    path = out / _RECORD
    if not path.exists():
        record = {"setting": mine, "about": _facts()}
        write_atomic(path, json.dumps(record, indent=1) + "\n")
        (out / "people").mkdir(exist_ok=True)
        return
    found = json.loads(path.read_text(encoding="utf-8"))["setting"]
    if found != mine:
        differ = ", ".join(sorted(name for name in mine if found.get(name) != mine[name]))
        raise EdgePLMError(
            f"holds a study with another {differ}", where=str(out), mend="Give another folder with --out"
        )


def _facts() -> dict[str, str]:
    """What the rows depend on besides the setting."""
    machine = machine_facts().as_dict()
    return {
        "command": shlex.join(["python", "-m", "benchmarks.studies.personalisation", *sys.argv[1:]]),
        "edgeplm": " ".join(filter(None, [__version__, _commit()])),
        "machine": ", ".join(str(value) for key in ("cpu", "os") if (value := machine.get(key))),
        "versions": ", ".join(
            [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
        ),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _about(out: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((out / _RECORD).read_text(encoding="utf-8"))["about"]
    return found


def _commit() -> str | None:
    """The commit of this code, where it lies in a git checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else None


if __name__ == "__main__":
    main()
