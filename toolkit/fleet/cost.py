"""What a fleet costs on paper: hours, storage and upload, from rates that were measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Measured on a small run; a worker is one CPU core.

    `person_seconds`: a worker's time for one person's training. `merged_seconds`: its time for the export of
    one merged bundle. The sizes, in bytes, are a person's folder as it is kept, their file in an attached
    bundle, a merged bundle, and the base of an attached one.
    """

    person_seconds: float
    merged_seconds: float
    folder_bytes: int
    attached_bytes: int
    merged_bytes: int
    base_bytes: int


@dataclass(frozen=True)
class Cost:
    """Totals of a fleet. `hours` are wall-clock with all workers busy, `*_worker_hours` those of one worker.

    `*_to_devices` are the bytes that all devices together fetch; `upload_bits` is what the workers together
    send to the store, in bits a second, while they train.
    """

    worker_hours: float
    hours: float
    stored_bytes: float
    upload_bits: float
    attached_bytes: float
    attached_to_devices: float
    merged_worker_hours: float
    merged_bytes: float


def fleet_cost(people: int, workers: int, rates: Rates) -> Cost:
    """The totals for `people` on `workers`; docs/scale.md has the formulas in words."""
    worker_hours = people * rates.person_seconds / 3600
    hours = worker_hours / workers
    stored = people * rates.folder_bytes
    return Cost(
        worker_hours=worker_hours,
        hours=hours,
        stored_bytes=stored,
        upload_bits=8 * stored / (3600 * hours),
        attached_bytes=people * rates.attached_bytes + rates.base_bytes,
        attached_to_devices=people * (rates.attached_bytes + rates.base_bytes),
        merged_worker_hours=people * rates.merged_seconds / 3600,
        merged_bytes=people * rates.merged_bytes,
    )
