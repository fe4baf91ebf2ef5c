"""`edgeplm bench`: latency and memory of a bundle on one device or several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.commands.common import (
    PATH,
    adapter_option,
    bundle_argument,
    figure_text,
    force_option,
    json_option,
    print_paragraph,
    print_table,
    short_path,
    watch,
)
from toolkit.errors import printable

if TYPE_CHECKING:
    from benchmarks.lanes import Lane
    from benchmarks.results import Result, Statistic
    from runtimes.devices import Device

_DEVICE_HELP = "local, ssh://user@host[:port] or adb:SERIAL; repeatable: each gets a lane  [default: local]."


@click.command(short_help="Latency and memory of a bundle on devices.")
@bundle_argument
@click.option("--device", "devices", multiple=True, metavar="DEVICE", help=_DEVICE_HELP)
@click.option(
    "--runtime",
    type=click.Choice(("onnx", "executorch")),
    help="The runtime that BUNDLE must be for, or the one to take from a folder of bundles.",
)
@click.option("--threads", type=int, help="CPU threads  [default: the runtime's choice].")
@adapter_option
@click.option("--prompt-tokens", type=int, default=128, show_default=True)
@click.option("--decode-tokens", type=int, default=64, show_default=True)
@click.option("--repeat", "repeats", type=int, default=5, show_default=True)
@click.option("--warmup", type=int, default=1, show_default=True, help="Repetitions that are discarded.")
@click.option("--cores", metavar="LIST", help="Cores to bind to, such as 4-7; or fast: not the slowest ones.")
@click.option(
    "--sustained",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="MINUTES",
    help="Also decode without a pause until the rate settles, for so long at most.",
)
@click.option(
    "--count-instructions",
    is_flag=True,
    help="Count instructions a token in one thread, in place of measuring times.",
)
@click.option(
    "--settle", type=float, default=30.0, show_default=True, help="Longest wait for a quiet device, in s."
)
@click.option(
    "--out",
    type=PATH,
    help="Also write the result, raw samples included: a JSON file, or with several devices a folder.",
)
@click.option("--resume", is_flag=True, help="Measure only the devices whose result is not in --out yet.")
@force_option
@json_option
def command(
    bundle: Path,
    devices: tuple[str, ...],
    runtime: str | None,
    threads: int | None,
    adapter: str | None,
    prompt_tokens: int,
    decode_tokens: int,
    repeats: int,
    warmup: int,
    cores: str | None,
    sustained: float,
    count_instructions: bool,
    settle: float,
    out: Path | None,
    resume: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Measure BUNDLE: load, time to first token, prefill, decode, memory, energy.

    Several devices are measured at the same time; one that fails leaves the
    others alone (exit code 1). A run that was throttled or disturbed is marked
    invalid and says why (exit code 3).

    A bundle is for one runtime, which its manifest names. With --runtime a
    bundle for another one is refused, and BUNDLE may be a folder that holds a
    bundle for each.
    """
    from benchmarks.choose import bundle_for
    from benchmarks.counting import count_instructions as count
    from benchmarks.lanes import Lane, lanes_json, measure_in_lanes
    from benchmarks.protocol import benchmark
    from toolkit.errors import DeviceError

    if runtime is not None:
        bundle = bundle_for(bundle, runtime)
    opened = _opened(devices or ("local",))
    kept = _Kept(out, several=len(opened) > 1, resume=resume, force=force)
    progress = watch()

    setting: dict[str, Any] = {
        "adapter": adapter, "prompt_tokens": prompt_tokens, "decode_tokens": decode_tokens,
    }  # fmt: skip
    if not count_instructions:
        setting |= {
            "threads": threads, "repeats": repeats, "warmup": warmup, "cores": _core_list(cores),
            "sustained_minutes": sustained,
        }  # fmt: skip

    def measure(device: "Device") -> "Result":
        if count_instructions:
            result = count(bundle, device, **setting, progress=progress)
        else:
            result = benchmark(bundle, device, **setting, settle_seconds=settle, progress=progress)
        kept.keep(result)
        return result

    done = {device.name: kept.earlier(device.name, bundle, setting) for device in opened}
    to_do = [device for device in opened if done[device.name] is None]
    measured = {lane.device: lane for lane in measure_in_lanes(to_do, measure)}
    lanes = [
        measured.get(device.name) or Lane(device.name, done[device.name], resumed=True) for device in opened
    ]
    if len(lanes) == 1:
        (lane,) = lanes
        if lane.result is None:
            raise lane.error or DeviceError("was not measured", where=f"device {lane.device}")
        click.echo(lane.result.to_json(), nl=False) if as_json else _print_one(lane.result)
    elif as_json:
        click.echo(lanes_json(lanes))
    else:
        _print_all(lanes)
    if out and not as_json:
        click.echo(f"Result: {short_path(out)}")
    return _complain(lanes)


def _core_list(text: str | None) -> "tuple[int, ...] | str | None":
    """What --cores says: numbers such as 0-3,6, or `fast`."""
    from runtimes.facts import parse_core_list

    if text is None or text == "fast":
        return text
    numbers = parse_core_list(text)
    if not numbers:
        raise click.UsageError(f"--cores {text!r}: write numbers such as 0-3 or 4,5, or fast.")
    return tuple(numbers)


def _opened(names: Sequence[str]) -> list["Device"]:
    """The devices; all that is wrong with their names is said before any of them is used."""
    from benchmarks.lanes import result_path
    from runtimes.devices import parse_device
    from toolkit.errors import DeviceError

    opened = [parse_device(name) for name in names]
    files = [result_path(Path(), device.name) for device in opened]
    for number, device in enumerate(opened):
        if files[number] in files[:number]:
            raise DeviceError("given twice", where=f"device {device.name}", mend="Name each device once")
    return opened


class _Kept:
    """Where results are written: a file for one device, a folder with a file each for several."""

    def __init__(self, out: Path | None, *, several: bool, resume: bool, force: bool) -> None:
        from toolkit.files import refuse_to_overwrite

        if resume and out is None:
            raise click.UsageError("--resume needs --out: it goes on from the results there.")
        if several and out and out.exists() and not out.is_dir():
            raise click.UsageError(f"--out {out}: with several devices it is a folder, and this is a file.")
        self._out, self._several, self._resume = out, several, resume
        if out and not resume and not (several and out.is_dir() and not any(out.iterdir())):
            refuse_to_overwrite(out, force)

    def path(self, device: str) -> Path | None:
        from benchmarks.lanes import result_path

        return result_path(self._out, device) if self._out and self._several else self._out

    def keep(self, result: "Result") -> None:
        from benchmarks.results import write_result

        if (path := self.path(result.environment.device)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_result(result, path)

    def earlier(self, device: str, bundle: Path, setting: Mapping[str, Any]) -> "Result | None":
        """With --resume: the result that is there already, of the same bundle measured in the same way."""
        path = self.path(device)
        if not self._resume or path is None:
            return None
        from benchmarks.lanes import earlier_result
        from exporters.bundle import MANIFEST
        from toolkit.files import sha256_of

        digest = sha256_of(bundle / MANIFEST)

        def same(result: "Result") -> bool:
            return result.environment.bundle.manifest_sha256 == digest and _measured_so(result, setting)

        return earlier_result(path, device, same)


def _measured_so(result: "Result", setting: Mapping[str, Any]) -> bool:
    """Whether `result` is what a measurement with `setting` gives; a count has fewer settings than a time."""
    was = result.setting
    counted = any(sample["kind"] == "instructions" for sample in result.samples)
    if counted == ("repeats" in setting):
        return False
    for name, asked in setting.items():
        if name == "sustained_minutes":
            fits = ("sustained_rate" in result.statistics) == (asked > 0)
        elif name == "cores":  # which cores are the fast ones the device has decided
            fits = bool(was.cores) if asked == "fast" else tuple(was.cores or ()) == tuple(asked or ())
        else:
            fits = getattr(was, name) == asked
        if not fits:
            return False
    return True


def _print_one(result: "Result") -> None:
    rows = []
    for name, statistic in result.shown.items():
        if name.startswith("decode_step_at"):
            continue  # in the JSON; the rate says the same here
        counted = statistic.unit in ("bytes", "instructions")
        ends = (figure_text(end, statistic.unit) for end in (statistic.p10, statistic.p90))
        spread = "" if counted else " to ".join(ends)
        rows.append((name.replace("_", " "), _median(statistic), spread, str(len(statistic.values))))
    print_table(rows, header=("figure", "median", "10th to 90th percentile", "samples"))


def _print_all(lanes: Sequence["Lane"]) -> None:
    figures = ("ttft", "prefill_rate", "decode_rate", "peak_rss", "instructions_per_decode")
    rows = []
    for lane in lanes:
        shown = lane.result.shown if lane.result else {}
        found = [next((s for name, s in shown.items() if name.startswith(start)), None) for start in figures]
        state = "failed" if lane.result is None else "valid" if lane.result.validity.valid else "invalid"
        rows.append((lane.device, state, *(_median(figure) if figure else "" for figure in found)))
    header = ["device", "run", *(name.replace("_", " ") for name in figures)]
    kept = [column for column in range(len(header)) if column < 2 or any(row[column] for row in rows)]
    print_table(
        [[row[column] for column in kept] for row in rows], header=[header[column] for column in kept]
    )


def _median(statistic: "Statistic") -> str:
    return figure_text(statistic.median, statistic.unit)


def _complain(lanes: Sequence["Lane"]) -> int:
    """Say on standard error which lanes failed or are invalid, and why; the exit code."""
    for lane in lanes:
        place = f"{lane.device}: " if len(lanes) > 1 else ""
        if lane.error is not None:
            click.echo(f"Error: {printable(str(lane.error))}", err=True)
        for reason in lane.result.validity.reasons if lane.result else ():
            print_paragraph(printable(f"{place}Marked invalid: {reason}"), err=True)
        for note in lane.result.validity.notes if lane.result else ():
            print_paragraph(printable(f"{place}Note: {note}"), err=True)
    if any(lane.result is None for lane in lanes):
        return 1
    return 0 if all(lane.result and lane.result.validity.valid for lane in lanes) else 3
