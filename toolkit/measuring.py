"""A run's bundle measured on the recipe's devices: a stage of the run folder for each of them."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.lanes import measure_in_lanes, result_path
from benchmarks.protocol import benchmark
from benchmarks.results import Result, read_result, write_result
from runtimes.devices import Device, parse_device
from toolkit.progress import Progress
from toolkit.recipe import BenchRecipe
from toolkit.runfolder import RunFolder, Stage

_STAGE = "benchmark"


def stage_names(devices: Sequence[str]) -> list[str]:
    """The stage of each device: `benchmark`, and for all but the first one its name behind it."""
    others = [f"{_STAGE}-{result_path(Path(), device).stem}" for device in devices[1:]]
    return [_STAGE, *others]


def measure_bundle(
    folder: RunFolder, bundle: Stage, settings: BenchRecipe, adapter: str | None, progress: Progress
) -> tuple[list[Result], list[str]]:
    """The results of the devices that could be measured, and what went wrong on the others.

    A device that was measured already is not measured again. Raises the error of the first device, on which
    the bundle was verified, if there is one.
    """
    devices = [parse_device(name) for name in settings.devices]
    stages = dict(zip((device.name for device in devices), stage_names(settings.devices), strict=True))

    def measure(device: Device) -> Result:
        def work(made: Path) -> None:
            result = benchmark(
                bundle.folder,
                device,
                threads=settings.threads,
                adapter=adapter,
                prompt_tokens=settings.prompt_tokens,
                decode_tokens=settings.decode_tokens,
                repeats=settings.repeats,
                warmup=settings.warmup,
                settle_seconds=settings.settle,
                progress=progress,
            )
            write_result(result, made / "result.json")

        inputs = {"bundle": bundle.key, "bench": {**settings.as_dict(), "devices": [device.name]}}
        return read_result(folder.stage(stages[device.name], inputs, work).folder / "result.json")

    lanes = measure_in_lanes(devices, measure)
    if lanes[0].error is not None:
        raise lanes[0].error
    results = [lane.result for lane in lanes if lane.result is not None]
    return results, [str(lane.error) for lane in lanes if lane.error is not None]
