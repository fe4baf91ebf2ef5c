"""One bundle on several devices at once: a lane each, and what goes wrong in one leaves the others alone."""

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Result, read_result
from runtimes.devices import Device
from toolkit.errors import EdgePLMError

Measure = Callable[[Device], Result]


@dataclass(frozen=True)
class Lane:
    """What came of one device: a result, or the error that ended its lane."""

    device: str
    result: Result | None
    error: EdgePLMError | None = None
    resumed: bool = False


def measure_in_lanes(
    devices: Sequence[Device],
    measure: Measure,
    *,
    finished: Callable[[Lane], None] = lambda lane: None,
) -> list[Lane]:
    """Run `measure` on every device at the same time; the lanes in the order of `devices`.

    `finished` sees each lane as it ends. An error that a user can mend ends its own lane only; anything else,
    an interrupt included, ends all of them.
    """
    lanes: dict[str, Lane] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, len(devices)), thread_name_prefix="lane")
    try:
        running = {pool.submit(_lane, device, measure): device for device in devices}
        for future in as_completed(running):
            lane = future.result()
            lanes[running[future].name] = lane
            finished(lane)
    finally:
        for device in devices:
            device.close()  # ends what still runs, so that the threads end too
        pool.shutdown(wait=True, cancel_futures=True)
    return [lanes[device.name] for device in devices]


def _lane(device: Device, measure: Measure) -> Lane:
    try:
        return Lane(device.name, measure(device))
    except EdgePLMError as error:
        return Lane(device.name, None, error)


def result_path(folder: Path, device: str) -> Path:
    """Where a device's result is kept; the name is readable, and no part of a device's name is a path."""
    return folder / f"{re.sub(r'[^A-Za-z0-9.@-]+', '_', device).strip('_.') or 'device'}.json"


def earlier_result(path: Path, device: str, like: Callable[[Result], bool]) -> Result | None:
    """The result in `path` if it is of `device` and `like` accepts it (same bundle, same setting)."""
    if not path.exists():
        return None
    try:
        result = read_result(path)
    except EdgePLMError:
        return None
    return result if result.environment.device == device and like(result) else None


def lanes_json(lanes: Sequence[Lane]) -> str:
    """All lanes as one JSON document: results where there are any, errors where there are not."""
    return json.dumps(
        [
            {
                "device": lane.device,
                "resumed": lane.resumed,
                "error": str(lane.error) if lane.error else None,
                "result": json.loads(lane.result.to_json()) if lane.result else None,
            }
            for lane in lanes
        ],
        indent=1,
        ensure_ascii=False,
    )
