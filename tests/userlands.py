"""Devices without a network: a shell with the programs that small systems have, and nothing else in sight."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtimes.devices.shell import Shell

_COREUTILS = "cat cp df env find flock getconf head ln mkdir mv printf rm sha256sum sh uname wc"


class LocalShell(Shell):
    """A shell of this machine that finds its programs in `programs` alone."""

    def __init__(self, programs: Path) -> None:
        self.name = "test:here"
        self.programs = programs

    def command(self, line: str) -> list[str]:
        return ["/usr/bin/env", "-i", f"PATH={self.programs}", f"{self.programs}/sh", "-c", line]

    def explain(self, status: int, said: str) -> tuple[str, str | None]:
        return f"the connection was cut ({said[-200:]})", None


def _needed(*names: str) -> list[str]:
    paths = [shutil.which(name) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here (Debian: apt install busybox-static toybox mksh)")
    return [path for path in paths if path is not None]


def _debian(folder: Path) -> None:
    for name in _COREUTILS.split():
        (folder / name).symlink_to(_needed(name)[0])


def _busybox(folder: Path) -> None:
    busybox, flock = _needed("busybox", "flock")
    for name in _COREUTILS.split():
        # Debian builds its busybox without flock.
        (folder / name).symlink_to(flock if name == "flock" else busybox)


def _android(folder: Path) -> None:
    toybox, mksh = _needed("toybox", "mksh")
    for name in _COREUTILS.split():
        (folder / name).symlink_to(mksh if name == "sh" else toybox)


USERLANDS: dict[str, Callable[[Path], None]] = {"debian": _debian, "busybox": _busybox, "android": _android}


def userland(folder: Path, kind: str) -> LocalShell:
    """A shell with the programs of `kind`, made in `folder`."""
    folder.mkdir()
    USERLANDS[kind](folder)
    return LocalShell(folder)


class Recorder:
    """A Progress that remembers how much each step has done."""

    def __init__(self, on_advance: Callable[[float], None] | None = None) -> None:
        self.done: dict[str, float] = {}
        self.totals: dict[str, float | None] = {}
        self._on_advance = on_advance

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Any]:
        self.totals[label] = total
        self.done[label] = 0.0

        def advance(amount: float) -> None:
            self.done[label] += amount
            if self._on_advance is not None:
                self._on_advance(self.done[label])

        yield advance

    @property
    def pushed(self) -> int:
        """Bytes of all steps that push."""
        return round(1e6 * sum(done for label, done in self.done.items() if label.startswith("push")))
