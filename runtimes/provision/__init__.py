"""Set-up of a bare device in one step: a runtime's environment built here and pushed, checked there.

The device needs a shell with the usual tools; it needs no network, no root and, if need be, no Python.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtimes.devices.shell import Shell
from runtimes.devices.store import Item, Room, Store
from runtimes.provision.archive import ARCHIVE, Archive, archive_of
from runtimes.provision.base import Base, debian_base, folder_base
from runtimes.provision.install import Checked, install, present
from runtimes.provision.pins import (
    EXECUTORCH,
    ONNXRUNTIME_GENAI,
    RUNTIMES,
    TRAINING,
    Spec,
    named_packages,
    spec_for,
)
from runtimes.provision.program import place_program
from runtimes.provision.target import Target, look
from runtimes.provision.wheels import make_site
from toolkit.errors import DeviceError
from toolkit.progress import SILENT, Progress

__all__ = ["EXECUTORCH", "ONNXRUNTIME_GENAI", "RUNTIMES", "TRAINING", "PrepareReport", "Prepared", "prepare"]

# Files take whole blocks of the disk, and compiled modules come beside them.
_MARGIN = 1.1
_ANDROID = "On a phone it runs in the demo app: docs/android.md"


@dataclass(frozen=True)
class Prepared:
    """One environment on the device.

    `was_there`: nothing was to do, and the sizes and the key are not given. `python` is the version that runs
    it, the device's own unless `self_contained`; `versions` are those of the packages it is for. `repaired`
    says what was wrong with the one before. `pushed_bytes` is the archive's size, `unpacked_bytes` what it
    takes there; `seconds` all of the work.
    """

    name: str
    key: str | None
    versions: dict[str, str]
    python: str
    self_contained: bool
    was_there: bool
    repaired: str | None
    pushed_bytes: int
    unpacked_bytes: int
    seconds: float


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found and did. `notes` are sentences for a person; `program` is EdgePLM itself
    on the device, a path, where the environment for training is."""

    device: str
    machine: str
    libc: str
    android: str | None
    environments: tuple[Prepared, ...]
    notes: tuple[str, ...] = ()
    program: str | None = None

    @property
    def nothing_to_do(self) -> bool:
        """Whether all was there already."""
        return all(each.was_there for each in self.environments)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "nothing_to_do": self.nothing_to_do}


def prepare(
    shell: Shell,
    root: str,
    runtimes: Sequence[str] = (ONNXRUNTIME_GENAI,),
    progress: Progress = SILENT,
    *,
    cache: Path,
    python_folder: Path | None = None,
    training: bool = False,
) -> PrepareReport:
    """Have the environments of `runtimes` on the device, below `root`, whole and checked; with `training`
    that for fine-tuning there too.

    Archives are made in `cache` and kept there. `python_folder` holds a Python that needs nothing of its
    system (see `runtimes.provision.debian`), for a device that has none that fits. Raises DeviceError with
    the device and the step: a device that cannot be prepared, too little space, a wheel that cannot be
    fetched, an environment that does not start. What was there before stays as it was then.
    """
    for name in runtimes:
        if name not in RUNTIMES:
            raise DeviceError(
                "unknown runtime", where=f"runtime {name!r}", mend=f"Known: {', '.join(RUNTIMES)}"
            )
    with progress.step("Looking at the device"):
        target = look(shell)
    wanted, notes = [*dict.fromkeys(runtimes), *([TRAINING] if training else [])], []
    if target.android and EXECUTORCH in wanted:
        if wanted == [EXECUTORCH]:
            raise shell.fault("look at the device", "ExecuTorch's Python is not for Android", _ANDROID)
        wanted.remove(EXECUTORCH)
        notes.append(f"ExecuTorch's Python is not for Android. {_ANDROID}.")
    base = None
    if target.python is None:
        base = (
            debian_base(target.machine)
            if python_folder is None
            else folder_base(python_folder, target.machine)
        )
        notes.append(
            f"It has no Python that fits, and gets one of its own: Python {base.version}, {base.words}."
        )
    store = Store(shell, root)
    with store.held() as room:
        done = [_environment(store, room, name, target, base, cache, progress) for name in wanted]
        program = place_program(store, room, progress) if training else None
    return PrepareReport(
        shell.name, target.machine.name, target.libc, target.android, tuple(done), tuple(notes), program
    )


def _environment(
    store: Store,
    room: Room,
    name: str,
    target: Target,
    base: Base | None,
    cache: Path,
    progress: Progress,
) -> Prepared:
    started = time.monotonic()
    version = base.version if base else str(target.python)
    spec = spec_for(name, target.machine.name, version, base.words if base else None)
    found = present(store, name, progress)
    if found is not None and found.fault is None and found.spec == spec.digest:
        return _prepared(spec, found, None, started)

    def fill(folder: Path, scratch: Path) -> dict[str, Any]:
        origin = {"wheels": make_site(spec, folder / "site", scratch, progress)}
        if base is not None:
            origin["base"] = base.fill(folder / "base", scratch, name, progress)
        return origin

    archive = archive_of(spec, fill, cache, progress)
    item = Item(archive.path, archive.bytes, archive.sha256, ARCHIVE)
    unpacked = round(archive.unpacked_bytes * _MARGIN)
    label = f"Pushing {name} to {store.shell.name}"
    store.send([item], room, label, progress, also=unpacked)
    checked = install(store, spec, archive, progress)
    return _prepared(spec, checked, archive, started, damaged=found.fault if found else None)


def _prepared(
    spec: Spec,
    checked: Checked,
    archive: Archive | None,
    started: float,
    *,
    damaged: str | None = None,
) -> Prepared:
    return Prepared(
        name=spec.name,
        key=archive.key if archive else None,
        versions={package: checked.versions[package] for package in named_packages(spec.name)},
        python=checked.python,
        self_contained=spec.base is not None,
        was_there=archive is None,
        repaired=damaged,
        pushed_bytes=archive.bytes if archive else 0,
        unpacked_bytes=archive.unpacked_bytes if archive else 0,
        seconds=time.monotonic() - started,
    )
