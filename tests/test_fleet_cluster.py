"""A fleet that joins a real Ray cluster: two nodes on loopback, of which one is lost on the way."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fleet_people import write_people, write_recipe
from fleet_process import ROOT, descendants, finish, fleet_command, start, until
from sshd import free_port

from toolkit.fleet.store import Store

# Ray listens at more than loopback, so nobody else may join.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class Node:
    """`ray start` in the foreground, with one CPU."""

    def __init__(self, log: Path, *arguments: str) -> None:
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1",
            "--object-store-memory", "80000000", "--disable-usage-stats", *arguments,
        ]  # fmt: skip
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out,
                env=os.environ | TOKEN | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self._log = log

    def wait(self) -> "Node":
        """Until it is part of the cluster."""
        until(lambda: self.process.poll() is not None or "Ray runtime started" in self._log.read_text())
        assert self.process.poll() is None, self._log.read_text()
        return self

    def worker(self) -> int | None:
        """The process that trains people here, once there is one."""
        found = (pid for pid, name in descendants(self.process.pid).items() if "ray::_RayWorker.run" in name)
        return next(found, None)

    def kill(self) -> None:
        """End all of its processes at once, as when a machine loses power."""
        for pid in (self.process.pid, *descendants(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[str, Node, Node]]:
    """The cluster's address, its head and its other node."""
    address = f"127.0.0.1:{free_port()}"
    folder = tempfile.mkdtemp(prefix="ray-")  # short, for Ray's sockets lie there
    head = Node(
        tmp_path / "head.log", "--head", "--port", address.rpartition(":")[2],
        "--include-dashboard", "false", "--temp-dir", folder,
    )  # fmt: skip
    started = [head]
    try:
        head.wait()
        # At an address of its own, so that the driver finds the head's as this machine's.
        arguments = ("--address", address, "--node-ip-address", "127.0.0.2")
        started.append(Node(tmp_path / "other.log", *arguments))
        yield address, head, started[1].wait()
    finally:
        for node in reversed(started):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_trains_everybody(
    nodes: tuple[str, Node, Node], tmp_path: Path
) -> None:
    address, head, other = nodes
    recipe = write_recipe(tmp_path / "fleet", epochs=6)
    users = write_people(tmp_path / "people.jsonl", 24)
    out = tmp_path / "out"
    store = Store(str(out))
    command = fleet_command(recipe, users, str(out), "--address", address, "--batch", "4", "--slots", "2")
    status, _, refused = finish(start(command, **(TOKEN | {"RAY_AUTH_TOKEN": "0" * 64})))
    assert (status, "Traceback" in refused) == (1, False), refused
    assert f"Error: {address}: the Ray cluster asks for a token, and this is not its own" in refused

    process = start([*command, "--resume"], **TOKEN)
    until(lambda: head.worker() and other.worker() and len(store.done()) >= 6, process)
    other.kill()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("people/*/done-*.json")}
    assert len(kept) < 24, "somebody must be left when the machine is lost"
    status, result, err = finish(process)
    assert (status, result["trained"], result["failures"]) == (0, 24, []), err
    assert (result["lost_workers"], result["workers"]) == (1, 2)
    assert len(store.done()) == 24
    again = [path for path, when in kept.items() if path.stat().st_mtime_ns != when]
    assert len(again) <= 4, "no more than the batch in flight is trained again"
    assert head.process.poll() is None, "a cluster that was joined goes on"
