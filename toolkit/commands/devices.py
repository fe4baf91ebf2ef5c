"""`edgeplm devices`: what can be measured, and setting a bare device up for it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.commands.common import (
    PATH,
    json_option,
    megabytes,
    print_json,
    print_paragraph,
    print_table,
    watch,
)

if TYPE_CHECKING:
    from runtimes.devices.listing import Listed
    from runtimes.facts import Facts
    from runtimes.provision import PrepareReport


@click.group(invoke_without_command=True, short_help="What devices there are; setting one up.")
@click.option(
    "--device", "named", multiple=True, metavar="DEVICE", help="Also this one: ssh://user@host[:port]."
)
@click.option("--recipe", type=PATH, help="Also the devices of this recipe.")
@json_option
@click.pass_context
def command(context: click.Context, named: tuple[str, ...], recipe: Path | None, as_json: bool) -> int:
    """Look at every device: this machine, those that adb lists, and the named ones.

    Exit code 1 if one of them cannot be used.
    """
    if context.invoked_subcommand is not None:
        return 0
    from runtimes.devices.listing import device_names, look_at
    from toolkit.recipe import read_recipe

    wanted = [*named, *(read_recipe(recipe).bench.devices if recipe else ())]
    names, adb_problem = device_names(wanted)
    with watch().step("Looking at the devices", total=len(names), unit="devices") as advance:
        found = look_at(names, lambda device: advance(1))
    if as_json:
        print_json({"devices": [device.as_dict() for device in found], "adb": adb_problem})
    else:
        _print(found)
    if adb_problem:
        print_paragraph(f"No phones were looked for: {adb_problem}", err=True)
    return 0 if all(device.problem is None for device in found) else 1


def _print(devices: Sequence["Listed"]) -> None:
    for number, device in enumerate(devices):
        if number:
            click.echo()
        click.echo(click.style(device.device, bold=True))
        if device.facts is None:
            print_paragraph(f"  {device.problem}", fg="red")
        else:
            print_table([(f"  {name}", value) for name, value in _rows(device.facts) if value])


def _rows(facts: "Facts") -> Iterator[tuple[str, str]]:
    yield "board", facts.board or ""
    yield "SoC", facts.soc or ""
    yield "cores", _cores(facts) or ""
    yield "memory", _gigabytes(facts.memory_bytes)
    yield "free storage", _gigabytes(facts.free_bytes)
    yield "system", facts.os or ""
    yield "kernel", f"{facts.kernel}, {facts.machine}"
    heat = None if facts.temperature is None else f"{facts.temperature:.0f} °C"
    governor = f"governor {', '.join(facts.governors)}" if facts.governors else None
    yield "now", ", ".join(filter(None, (heat, governor)))
    yield from facts.runtimes.items()
    if facts.emulated:
        yield "emulated", "yes: its times mean nothing, and are not shown"


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.1f} GB"


def _cores(facts: "Facts") -> str:
    if not facts.clusters:
        return f"{facts.cores_logical} x {facts.cpu}" if facts.cores_logical else ""
    return " + ".join(
        f"{cluster.cores} x {cluster.cpu or 'core'}"
        + (f" to {cluster.max_mhz:.0f} MHz" if cluster.max_mhz else "")
        for cluster in facts.clusters
    )


@command.command(short_help="Set a bare device up.")
@click.argument("device")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    help="onnxruntime-genai, executorch or all; repeatable  [default: onnxruntime-genai].",
)
@click.option("--with-training", is_flag=True, help="Also what `edgeplm finetune --device` needs there.")
@click.option(
    "--python-folder", type=PATH, help="A Python for devices that have none (docs/hardware-tester.md)."
)
@json_option
def prepare(
    device: str, runtimes: tuple[str, ...], with_training: bool, python_folder: Path | None, as_json: bool
) -> None:
    """Put a private environment onto DEVICE, so that it can run bundles.

    Everything is fetched here and pushed: the device needs no network, no root
    and no app. What is there already is not sent again.
    """
    from runtimes.devices import parse_device
    from runtimes.devices.remote import RemoteDevice
    from runtimes.provision import ONNXRUNTIME_GENAI, RUNTIMES, prepare
    from toolkit.errors import DeviceError
    from toolkit.models import cache_folder

    opened = parse_device(device)
    if not isinstance(opened, RemoteDevice):
        raise DeviceError(
            "needs no preparation: EdgePLM is installed here",
            where=f"device {opened.name}",
            mend="`edgeplm doctor` checks it",
        )
    wanted = RUNTIMES if "all" in runtimes else runtimes or (ONNXRUNTIME_GENAI,)
    try:
        report = prepare(
            opened.shell,
            opened.root,
            wanted,
            watch(),
            cache=cache_folder() / "environments",
            python_folder=python_folder,
            training=with_training,
        )
    finally:
        opened.close()
    if as_json:
        print_json(report.as_dict())
    else:
        _print_prepared(report)


def _print_prepared(report: "PrepareReport") -> None:
    rows = []
    for each in report.environments:
        done = "was there" if each.was_there else f"pushed {megabytes(each.pushed_bytes)}"
        versions = ", ".join(f"{name} {version}" for name, version in each.versions.items())
        rows.append((each.name, done, f"Python {each.python}, {versions}"))
    print_table(rows, header=(report.device, "", ""))
    for note in report.notes:
        print_paragraph(note)
