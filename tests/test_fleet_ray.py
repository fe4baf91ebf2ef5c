"""A fleet on a real Ray: whole runs, and kill -9 of a worker and of the driver."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fleet_people import write_people, write_recipe
from fleet_process import PATIENCE, ROOT, descendants, finish, fleet_command, kill_driver, start, until

from toolkit.errors import EdgePLMError
from toolkit.fleet.driver import Fleet, ray_session
from toolkit.fleet.plan import Person, batches, read_users
from toolkit.fleet.result import Done
from toolkit.fleet.store import Store
from toolkit.tasks import load_task

TASK = load_task("rewrite")


class Deadly:
    """A worker without a model, whom some people kill."""

    def __init__(self, fatal: Sequence[str], broken: Sequence[str]) -> None:
        self.fatal, self.broken = fatal, broken

    def run(self, batch: Sequence[Person]) -> Iterator[Done]:
        for person in batch:
            if person.key in self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            if person.key in self.broken:
                raise ZeroDivisionError("a bug")
            if person.key == "full":
                raise OSError(28, "No space left on device")
            yield Done(person.key, person.profile.user_id)


class DeadlyFleet(Fleet):
    """A fleet of such workers."""

    fatal: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    def _actor(self) -> Any:
        import ray

        return ray.remote(Deadly).options(num_cpus=1, max_restarts=0).remote(self.fatal, self.broken)


def train(
    people: Sequence[Person],
    *,
    fatal: tuple[str, ...] = (),
    broken: tuple[str, ...] = (),
    workers: int = 2,
    size: int = 4,
) -> Any:
    fleet = DeadlyFleet(None, batches(people, size), workers)  # type: ignore[arg-type]
    fleet.fatal, fleet.broken = fatal, broken
    found: list[Done] = []
    fleet.run(found.append)
    assert sorted(done.key for done in found) == sorted(person.key for person in people)
    return fleet, {done.user_id: done.error for done in found if done.error}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Person, ...]:
    return read_users(write_people(tmp_path_factory.mktemp("people") / "p.jsonl", 11), TASK).people


@pytest.fixture(scope="module")
def session() -> Iterator[int]:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    with ray_session(None, 2) as workers:
        yield workers


def test_everybody_is_trained_once(session: int, people: tuple[Person, ...]) -> None:
    assert session == 2
    fleet, failed = train(people)
    assert (fleet.lost, failed) == (0, {})


def test_who_kills_every_worker_is_found_and_stops_nobody(session: int, people: tuple[Person, ...]) -> None:
    fleet, failed = train(people, fatal=("user 3", "user 10"))
    assert failed == dict.fromkeys(("user 3", "user 10"), "its worker died, 2 times")
    assert fleet.lost >= 4


@pytest.mark.timeout(200)  # they used to wait for each other forever
def test_more_workers_than_cpus_take_turns(session: int, people: tuple[Person, ...]) -> None:
    """As after the loss of a machine of the cluster."""
    fleet, failed = train(people, workers=3, size=2)
    assert (fleet.lost, failed) == (0, {})


def test_a_bug_with_one_person_stops_nobody(session: int, people: tuple[Person, ...]) -> None:
    _, failed = train(people, broken=("user 5",))
    assert failed == {"user 5": "ZeroDivisionError: a bug, 2 times"}


def test_a_full_disk_stops_everything(session: int, people: tuple[Person, ...]) -> None:
    full = Person("full", people[0].profile, "0")
    with pytest.raises(OSError, match="No space left"):
        train([full, *people])


class Lame(Deadly):
    """A worker that cannot start."""

    def __init__(self) -> None:
        raise ImportError("No module named 'toolkit'")


class LameFleet(Fleet):
    """A fleet of such workers."""

    def _actor(self) -> Any:
        import ray

        return ray.remote(Lame).options(num_cpus=1).remote()


def test_workers_that_cannot_start_end_the_fleet(session: int, people: tuple[Person, ...]) -> None:
    with pytest.raises(EdgePLMError, match=r"fleet: a worker cannot start \(.*No module.*Install the same"):
        LameFleet(None, batches(people, 4), 2).run(lambda done: None)  # type: ignore[arg-type]


def test_no_cluster_at_the_address_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    refused = f"^{address}: Ray cannot be reached .*Start a cluster with `ray start --head`"
    with pytest.raises(EdgePLMError, match=refused), ray_session(address, None):
        pass


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("fleet"), epochs=6)


def test_killed_workers_and_drivers_lose_at_most_the_batch_in_flight(recipe: Path, tmp_path: Path) -> None:
    """One story, for Ray takes its time to start: a worker is killed, then the driver, then it goes on."""
    users = write_people(tmp_path / "people.jsonl", 40, bad=(7,))
    out = str(tmp_path / "out")
    store = Store(out)
    process = start(fleet_command(recipe, users, out, "--batch", "4", "--slots", "2"))
    until(lambda: len(store.done()) >= 2, process)
    workers = [pid for pid, name in descendants(process.pid).items() if name.startswith("ray::_RayWorker")]
    os.kill(workers[0], signal.SIGKILL)
    before = len(store.done())
    until(lambda: len(store.done()) >= before + 10, process)
    second = subprocess.run(
        fleet_command(recipe, users, out, "--resume"), cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (second.returncode, "another fleet is writing into it" in second.stderr) == (1, True)
    kill_driver(process)
    kept = store.done()
    assert 12 <= len(kept) < 39
    times = {key: mark_of(out, key, digest).stat().st_mtime_ns for key, digest in kept}

    status, result, err = finish(start(fleet_command(recipe, users, out, "--resume")))
    assert status == 3, err
    assert (result["people"], result["reused"], result["trained"]) == (40, len(kept), 39 - len(kept))
    assert [failure["user_id"] for failure in result["failures"]] == ["user 7"]
    assert "Failed: user 7" in err and "'output' is empty" in err
    assert len(store.done()) == 39
    assert {key: mark_of(out, key, digest).stat().st_mtime_ns for key, digest in kept} == times
    assert not list((tmp_path / "out" / "people").glob(".*"))


def mark_of(out: str, key: str, digest: str) -> Path:
    return Path(out) / "people" / key / f"done-{digest}.json"


def test_a_lost_worker_is_replaced(recipe: Path, tmp_path: Path) -> None:
    users = write_people(tmp_path / "people.jsonl", 24)
    out = f"file://{tmp_path}/out"
    store = Store(out)
    process = start(fleet_command(recipe, users, out, "--batch", "6"))
    until(lambda: len(store.done()) >= 1, process)
    workers = [pid for pid, name in descendants(process.pid).items() if name.startswith("ray::_RayWorker")]
    os.kill(workers[0], signal.SIGKILL)
    status, result, err = finish(process)
    assert (status, result["trained"], result["failures"]) == (0, 24, []), err
    assert result["lost_workers"] == 1
    assert len(store.done()) == 24


@pytest.mark.slow
def test_adapters_end_in_one_bundle_or_in_one_each(tmp_path: Path) -> None:
    from exporters.adapters import list_adapters
    from exporters.bundle import open_bundle
    from runtimes import open_engine

    recipe = write_recipe(tmp_path, epochs=6, learning_rate=1e-2)
    users = write_people(tmp_path / "people.jsonl", 3)
    out = str(tmp_path / "out")
    more = ("--set", "export.calibration=none", "--set", "export.context_length=256")
    status, result, err = finish(start(fleet_command(recipe, users, out, "--bundle", "attached", *more)))
    assert status == 0, err
    bundle = Path(result["bundle"])
    assert sorted(each.name for each in list_adapters(bundle)) == ["user 0", "user 1", "user 2"]
    engine = open_engine(bundle)
    scores = []
    for name in (None, "user 0", "user 1"):
        engine.use_adapter(name)
        scores.append(engine.score([1, 5, 9, 20]))
    engine.close()
    assert all(abs(scores[a] - scores[b]).max() > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))

    merged = str(tmp_path / "merged")
    status, result, err = finish(
        start(
            fleet_command(recipe, users, out, "--resume", "--bundle", "merged", "--bundle-out", merged, *more)
        )
    )
    assert (status, result["trained"], result["reused"]) == (0, 0, 3), err
    assert all(open_bundle(Path(merged) / name) for name in ("user 0", "user 1", "user 2"))


@pytest.mark.slow
def test_the_quantised_base_that_people_were_trained_on_is_the_one_that_is_shipped(tmp_path: Path) -> None:
    from exporters.quantise.store import read_weights

    recipe = write_recipe(tmp_path, epochs=6, learning_rate=1e-2, quantization_aware=True)
    users = write_people(tmp_path / "people.jsonl", 3)
    out = tmp_path / "out"
    more = ("--set", "export.calibration=neutral", "--set", "export.windows=2")
    status, result, err = finish(start(fleet_command(recipe, users, str(out), "--bundle", "attached", *more)))
    assert status == 0, err
    codes = read_weights(out / "weights.safetensors")["model.layers.0.mlp.up_proj"].codes
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).numpy().tobytes()
    assert packed in (Path(result["bundle"]) / "model.onnx.data").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a busy machine is slow, and wrong results are what is looked for
def test_a_thousand_people(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, rank=2)
    users = write_people(tmp_path / "people.jsonl", 1000, bad=(500,))
    command = fleet_command(recipe, users, str(tmp_path / "out"), "--batch", "50", "--slots", "16")
    process = start(command)
    out, err = process.communicate(timeout=3500)
    result = json.loads(out)
    assert process.returncode == 3, err
    assert (result["people"], result["trained"], len(result["failures"])) == (1000, 999, 1)
    assert len(Store(str(tmp_path / "out")).done()) == 999
    assert result["users_per_hour"] == pytest.approx(3600 * 999 / result["seconds"])
