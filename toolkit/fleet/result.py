"""What came of a fleet."""

from dataclasses import dataclass

from toolkit.fleet.plan import Failure


@dataclass(frozen=True)
class Done:
    """One finished person, as a worker reports it: an error, or the facts of the adapter that is kept."""

    key: str
    user_id: str
    error: str | None = None
    better_than_base: bool | None = None
    bytes: int = 0


@dataclass(frozen=True)
class FleetResult:
    """A fleet's outcome; times in seconds, sizes in bytes.

    `trained` in this run, `reused` from an earlier one, `not_better` of those trained whose adapter is not
    better than the base on the held-out slice: it is kept, and with `finetune.guard` goes into no bundle.
    `lost_workers` died on the way and were replaced.
    `users_per_hour` counts those trained, from the first worker's start to the last person's end.
    """

    out: str
    people: int
    trained: int
    reused: int
    not_better: int
    failures: tuple[Failure, ...]
    lost_workers: int
    workers: int
    seconds: float
    bytes: int
    bundle: str | None = None

    @property
    def users_per_hour(self) -> float:
        """Throughput of this run."""
        return 3600 * self.trained / self.seconds if self.seconds else 0.0
