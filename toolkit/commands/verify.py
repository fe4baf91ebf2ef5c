"""`edgeplm verify`: is a bundle whole, does it load, does it still answer like the float model?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.commands.common import (
    PATH,
    bundle_argument,
    json_option,
    print_json,
    print_table,
    task_adapter_option,
    watch,
)
from toolkit.commands.outcome import verification_rows
from toolkit.errors import printable

if TYPE_CHECKING:
    from runtimes.golden import Agreement

_DEVICE_HELP = "Ask the golden prompts there: local, ssh://user@host[:port] or adb:SERIAL."


@click.command(short_help="Check a bundle, and what is left of its adapter.")
@bundle_argument
@click.option("--adapter", type=PATH, help="The adapter it was made with: compares it with float.")
@task_adapter_option
@click.option("--model", metavar="SOURCE", help="Base model  [default: the one in the manifest].")
@click.option("--recipe", "recipe_file", type=PATH, help="Take the thresholds from this recipe.")
@click.option("--profile", metavar="PATH", help="Compare on this person's queries instead of neutral text.")
@click.option("--user", metavar="ID", help="Which person, if the profile holds several.")
@click.option("--device", metavar="DEVICE", help=_DEVICE_HELP)
@json_option
def command(
    bundle: Path,
    adapter: Path | None,
    task_adapter: Path | None,
    model: str | None,
    recipe_file: Path | None,
    profile: str | None,
    user: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Check BUNDLE: files and hashes, that it loads, that it answers as on the
    machine that made it.

    With --device the bundle is pushed there, hashes are checked there, and it is
    the device that answers. With --adapter also against the float model: how much
    of the adapter's effect is left. Exit code 3 if a check falls short.
    """
    from exporters.bundle import open_bundle
    from exporters.task_adapter import with_task_adapter
    from runtimes import open_engine
    from runtimes.golden import repeat_golden
    from toolkit import bundling
    from toolkit.models import cache_folder, resolve_model
    from toolkit.profiles import read_profile
    from toolkit.recipe import VerifyRecipe, read_recipe
    from toolkit.tasks import Task

    if device and adapter:
        raise click.UsageError("--adapter compares with float on this machine: leave out --device.")
    if device:
        return _on_device(bundle, device, as_json)
    manifest = open_bundle(bundle)
    if profile and not adapter:
        raise click.UsageError("--profile needs --adapter: it is the float model that is compared with.")
    if adapter and manifest.base_model.task_adapter and not task_adapter:
        raise click.UsageError("This bundle's base holds a task adapter: give that with --task-adapter.")
    engine = open_engine(bundle)
    try:
        agreements = repeat_golden(engine, manifest)
    finally:
        engine.close()
    problems = [each.problem for each in agreements if each.problem]
    found = None
    if adapter:
        task = Task.from_dict(manifest.task) if manifest.task else None
        if profile and task is None:
            raise click.UsageError("This bundle names no task, so --profile cannot be read.")
        progress = watch()
        person = read_profile(Path(profile), task, user) if profile and task else None
        limits = read_recipe(recipe_file).verify if recipe_file else VerifyRecipe()
        base = resolve_model(model or manifest.base_model.source, progress)
        base = with_task_adapter(base, task_adapter, cache_folder(), progress)
        known = task if person else None
        windows = bundling.calibration_of(manifest, base, known, [person] if person else [], progress)
        found = bundling.verify_bundle(
            bundle, base, adapter, limits, known, person, windows=windows, progress=progress
        )
        problems += found["failures"]
    if as_json:
        result = {"bundle": str(bundle), "files": len(manifest.files), "passed": not problems}
        result |= {"problems": problems, "golden": [each.as_dict() for each in agreements]}
        result |= {"against_float": found, "at_export": manifest.verification}
        print_json(result)
        return 3 if problems else 0
    rows = [
        ("files", f"{len(manifest.files)}, sizes and hashes as in the manifest"),
        ("loads with", f"{manifest.runtime.name}, {len(manifest.golden)} golden prompts asked again"),
    ]
    shown = found or manifest.verification
    if shown:
        rows.append(("", "measured now:" if found else "measured at export:"))
        rows += verification_rows(shown)
    print_table(rows)
    _print_golden(agreements)
    return _conclude(problems)


def _on_device(bundle: Path, name: str, as_json: bool) -> int:
    """Have a device ask the golden prompts; the exit code."""
    from exporters.bundle import open_bundle
    from runtimes.devices import parse_device
    from runtimes.devices.golden import check_on_device

    device = parse_device(name)
    manifest = open_bundle(bundle)
    try:
        found = check_on_device(bundle, manifest, device, watch())
    finally:
        device.close()
    if as_json:
        result = {"bundle": str(bundle), "device": device.name, "files": len(manifest.files)}
        result |= {"runtime": found.runtime, "runtime_version": found.runtime_version}
        result |= {"passed": not found.problems, "problems": found.problems}
        print_json(result | {"golden": [each.as_dict() for each in found.agreements]})
        return 3 if found.problems else 0
    rows = [
        ("device", printable(device.name)),
        ("files", f"{len(manifest.files)}, sizes and hashes as in the manifest"),
        ("runs with", printable(f"{found.runtime} {found.runtime_version}")),
    ]
    print_table(rows)
    _print_golden(found.agreements)
    return _conclude(found.problems)


def _print_golden(agreements: "Sequence[Agreement]") -> None:
    if not agreements:
        return
    rows = [
        (
            str(number),
            f"{each.difference:.3g}",
            f"{each.limit:.3g}",
            f"{each.same_tokens} of {each.tokens}",
            "differs" if each.problem else "agrees",
        )
        for number, each in enumerate(agreements, start=1)
    ]
    click.echo()
    print_table(rows, header=("golden prompt", "logits off by", "at most", "same tokens", ""))


def _conclude(problems: Sequence[str]) -> int:
    for problem in problems:
        click.echo(f"Check fell short: {problem}", err=True)
    if not problems:
        click.echo("All checks passed.")
    return 3 if problems else 0
