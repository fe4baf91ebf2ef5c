"""The run folder: what each stage made, keyed by a hash of its inputs.

A stage writes into a folder of its own that takes its name when the stage is complete. A run that was killed
goes on where it stopped; a stage whose inputs did not change is not run again.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import __version__
from toolkit.errors import EdgePLMError
from toolkit.files import staged_directory, write_atomic

if TYPE_CHECKING:
    from toolkit.profiles import Profile
    from toolkit.tasks import Task

_MARKERS = ".stages"
_IDENTITY = "run.json"
_LOCK = ".lock"


class RunFolder:
    """One run's folder; `open` it, so that two runs never write into the same one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def open(self) -> Iterator["RunFolder"]:
        """Hold the folder for this process; raises EdgePLMError if another run has it, or if it is a folder
        of something else."""
        if self.path.exists() and not self._is_ours():
            raise EdgePLMError(
                "is not empty and no run folder" if self.path.is_dir() else "is a file",
                where=str(self.path),
                mend="Choose another name for the output",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / _LOCK, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EdgePLMError(
                    "another run is writing into it",
                    where=str(self.path),
                    mend="Wait for it, or choose another name",
                ) from None
            if not (self.path / _IDENTITY).is_file():
                write_atomic(self.path / _IDENTITY, json.dumps({"edgeplm": __version__}) + "\n")
            for leftover in self.path.glob(".*.*"):  # staging folders of a run that was killed
                if leftover.is_dir():
                    shutil.rmtree(leftover)
            yield self

    def _is_ours(self) -> bool:
        """Whether it is a run folder, or an empty one; a run that has only just begun has its lock there."""
        if not self.path.is_dir():
            return False
        names = [entry.name for entry in self.path.iterdir()]
        # After the listing: the identity of a run that begins meanwhile is not listed, or it is seen here.
        return (self.path / _IDENTITY).is_file() or all(
            name == _LOCK or name.startswith(f".{_IDENTITY}.") for name in names
        )

    def stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], None], *, fresh: bool = False
    ) -> "Stage":
        """Run `work(folder)` unless the stage's folder is there and was made from the same `inputs`; with
        `fresh` run it in any case.

        The returned stage's `key` goes into the inputs of the stages that build on it.
        """
        key = _key_of(name, inputs)
        folder, marker = self.path / name, self.path / _MARKERS / f"{name}.json"
        if not fresh and self.has(name, inputs):
            return Stage(folder, key, reused=True)
        marker.unlink(missing_ok=True)  # from here on the old result may be half replaced
        started = time.monotonic()
        with staged_directory(folder, force=True) as staging:
            work(staging)
        record = {"key": key, "seconds": round(time.monotonic() - started, 1)}
        write_atomic(marker, json.dumps(record) + "\n")
        return Stage(folder, key, reused=False)

    def has(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the stage is there and was made from these `inputs`."""
        marker = self.path / _MARKERS / f"{name}.json"
        return (self.path / name).is_dir() and _key_in(marker) == _key_of(name, inputs)

    def drop(self, *names: str) -> None:
        """Take stages away that this run does not make."""
        for name in names:
            (self.path / _MARKERS / f"{name}.json").unlink(missing_ok=True)
            shutil.rmtree(self.path / name, ignore_errors=True)


class Stage:
    """A finished stage: its folder, the key of its inputs, and whether it was there already."""

    def __init__(self, folder: Path, key: str, *, reused: bool) -> None:
        self.folder = folder
        self.key = key
        self.reused = reused


def _key_of(name: str, inputs: Mapping[str, Any]) -> str:
    canonical = json.dumps({"stage": name, "edgeplm": __version__, **inputs}, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def identity(model: str, task: "Task", profile: "Profile", seed: int) -> dict[str, Any]:
    """What every stage depends on: the base model's sha256, the task, the person's examples, the seed."""
    return {"model": model, "task": task.as_dict(), "profile": profile.digest(), "seed": seed}


def _key_in(marker: Path) -> str | None:
    try:
        return str(json.loads(marker.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
