"""Progress as lines of JSON, and those lines as bars again: a program shows on this machine how far it is on
another one. With EDGEPLM_PROGRESS=lines in its environment, EdgePLM writes them to standard error."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from toolkit.progress import Advance, Progress

VARIABLE, LINES = "EDGEPLM_PROGRESS", "lines"
_MARK = "edgeplm-progress "
_SECONDS_APART = 0.5


class LineProgress:
    """Writes a line when a step begins, when it ends, and at most twice a second in between."""

    def __init__(self) -> None:
        self._number = 0

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        """One step; what it advanced is told in sums."""
        self._number += 1
        number, waiting, last = self._number, 0.0, time.monotonic()
        _write(step=number, label=label, total=total, unit=unit)

        def advance(amount: float) -> None:
            nonlocal waiting, last
            waiting += amount
            if time.monotonic() - last >= _SECONDS_APART:
                _write(step=number, advance=waiting)
                waiting, last = 0.0, time.monotonic()

        yield advance
        if waiting:
            _write(step=number, advance=waiting)
        _write(step=number, done=True)


def _write(**fields: Any) -> None:
    sys.__stderr__.write(_MARK + json.dumps(fields) + "\n")  # type: ignore[union-attr]
    sys.__stderr__.flush()  # type: ignore[union-attr]


class Follower:
    """Shows the steps of a `LineProgress` elsewhere, as steps of `progress`; `where` leads each label."""

    def __init__(self, progress: Progress, where: str) -> None:
        self._progress = progress
        self._where = where
        self._open: dict[int, tuple[AbstractContextManager[Advance], Advance]] = {}

    def take(self, line: str) -> bool:
        """Whether `line` was one of progress; then it has been shown."""
        if not line.startswith(_MARK):
            return False
        try:
            self._show(json.loads(line.removeprefix(_MARK)))
        except (ValueError, KeyError, TypeError, AttributeError):
            return False  # garbled on its way, and a matter of looks
        return True

    def close(self) -> None:
        """End what is still open, as after an error there."""
        stopped = RuntimeError("stopped")
        for step, _ in self._open.values():
            step.__exit__(RuntimeError, stopped, None)
        self._open.clear()

    def _show(self, told: dict[str, Any]) -> None:
        number = int(told["step"])
        if "label" in told:
            total = None if told["total"] is None else float(told["total"])
            step = self._progress.step(f"{self._where}: {told['label']}", total, str(told["unit"]))
            self._open[number] = (step, step.__enter__())
        elif "advance" in told:
            self._open[number][1](float(told["advance"]))
        elif told.get("done"):
            self._open.pop(number)[0].__exit__(None, None, None)
