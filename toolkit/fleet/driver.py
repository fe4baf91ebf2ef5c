"""The driver: starts or joins Ray, hands batches to workers, and replaces those that die."""

import io
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import EdgePLMError
from toolkit.fleet.plan import Person
from toolkit.fleet.result import Done
from toolkit.fleet.worker import Job

_ATTEMPTS = 2  # times that somebody alone may take a worker down before they are a failure
_OBJECTS = 256 * 2**20  # bytes of Ray's object store here: profiles are small


@dataclass
class _Batch:
    people: list[Person]
    attempts: int = 0


@dataclass
class _Running:
    actor: Any
    batch: _Batch
    results: Any  # a stream of references, one a person
    left: dict[str, Person] = field(default_factory=dict)


@contextmanager
def ray_session(address: str | None, workers: int | None) -> Iterator[int]:
    """Join the cluster at `address`, or start Ray on this machine; yields the number of workers.

    By default a worker a CPU. Neither usage statistics nor a dashboard. EdgePLMError if there is no cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.exceptions import RayError

    if address:
        _check_reachable(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=workers,
                object_store_memory=_OBJECTS,
                include_dashboard=False,
                **quiet,
            )
    except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = address or "this machine"
        if "uthenticat" in f"{error} {error.__cause__}":  # which quotes a traceback
            raise EdgePLMError(
                "the Ray cluster asks for a token, and this is not its own",
                where=where,
                mend="Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's own",
            ) from error
        raise _unreachable(where, str(error).splitlines()[0]) from error
    try:
        # Ray prints about dead workers on standard output, which belongs to results; the fleet counts them.
        with redirect_stdout(io.StringIO()):
            yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody is there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto`, or something that Ray will judge
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(where: str, reason: str) -> EdgePLMError:
    return EdgePLMError(
        f"Ray cannot be reached ({reason})",
        where=where,
        mend="Start a cluster with `ray start --head`, or leave out --address",
    )


class Fleet:
    """Trains batches on `workers` of Ray; `lost` counts workers that died.

    A batch whose worker dies is tried again without those who were done; if it dies again the batch is cut in
    two, until the one who takes workers down is alone, and a failure.
    """

    def __init__(self, job: Job, batches: Sequence[Sequence[Person]], workers: int) -> None:
        self._job = job
        self._waiting = deque(_Batch(list(batch)) for batch in batches)
        self._workers = min(workers, len(self._waiting))
        self._running: dict[Any, _Running] = {}
        self.lost = 0

    def run(self, on_done: Callable[[Done], None]) -> None:
        """Train everybody; `on_done` is told of each person as they end.

        Raises what a worker cannot go on after: EdgePLMError of its start, OSError of keeping its results.
        """
        import ray

        for _ in range(self._workers):
            self._next(self._actor())
        while self._running:
            ready, _ = ray.wait(list(self._running), num_returns=1, fetch_local=True)
            for stream in ready:
                self._advance(stream, on_done)

    def _actor(self) -> Any:
        import ray

        return ray.remote(_RayWorker).options(num_cpus=1, max_restarts=0).remote(self._job)

    def _next(self, actor: Any) -> None:
        """Give a worker the next batch; where there is none it ends, for another one may wait for its CPU.

        There are more workers than CPUs once a machine of the cluster is lost, or if many were asked for.
        """
        import ray

        if not self._waiting:
            ray.kill(actor)
            return
        batch = self._waiting.popleft()
        results = actor.run.options(num_returns="streaming").remote(batch.people)
        self._running[results] = _Running(
            actor, batch, results, {person.key: person for person in batch.people}
        )

    def _advance(self, stream: Any, on_done: Callable[[Done], None]) -> None:
        """Take the next result of a worker's stream."""
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        running = self._running[stream]
        try:
            done = ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._next(running.actor)
            return
        except RayTaskError as error:
            if isinstance(error.cause, EdgePLMError | OSError):
                raise error.cause from None
            self._retry(stream, f"{type(error.cause).__name__}: {error.cause}", on_done)
            return
        except RayActorError as error:
            if getattr(error, "actor_init_failed", False):  # another worker would fare no better
                raise EdgePLMError(
                    f"a worker cannot start ({str(error).strip().splitlines()[-1]})",
                    where="fleet",
                    mend="Install the same EdgePLM on every machine of the cluster",
                ) from None
            self.lost += 1
            self._retry(stream, "its worker died", on_done)
            return
        except RayError as error:
            self.lost += 1
            self._retry(stream, str(error).splitlines()[0], on_done)
            return
        running.left.pop(done.key, None)
        on_done(done)

    def _retry(self, stream: Any, reason: str, on_done: Callable[[Done], None]) -> None:
        """A worker is gone, and with it what it had not finished: those go into new batches."""
        import ray

        running = self._running.pop(stream)
        ray.kill(running.actor)
        left, attempts = list(running.left.values()), running.batch.attempts + 1
        if len(left) == 1 and attempts >= _ATTEMPTS:
            person = left[0]
            on_done(Done(person.key, person.profile.user_id, f"{reason}, {attempts} times"))
        elif attempts >= _ATTEMPTS:
            middle = (len(left) + 1) // 2
            self._waiting.extendleft([_Batch(left[middle:]), _Batch(left[:middle])])
        elif left:
            self._waiting.appendleft(_Batch(left, attempts))
        if self._waiting:
            self._next(self._actor())


class _RayWorker:
    """`toolkit.fleet.worker.Worker` as Ray holds it; imported there, for it brings torch."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker: Any = None

    def run(self, batch: Sequence[Person]) -> Iterator[Done]:
        if self._worker is None:  # here, not above, so that the driver hears its errors as they are
            from toolkit.fleet.worker import Worker

            self._worker = Worker(self._job)
        yield from self._worker.run(batch)
