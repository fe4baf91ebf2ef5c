"""Progress that a person can watch: a bar with the time left, on a terminal only."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, Protocol

Advance = Callable[[float], None]


class Progress(Protocol):
    """Reports steps of work; a step is a context manager that yields `advance(amount)`."""

    def step(self, label: str, total: float | None = None, unit: str = "") -> Any:
        """Open a step; `total` in `unit`s, or None where the amount is not known beforehand."""
        ...


class _Silent:
    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        yield lambda amount: None


SILENT: Progress = _Silent()


class TerminalProgress:
    """Bars on standard error with rate and time left; each finished step leaves one line.

    Steps may run at the same time in several threads: each has a bar of its own, one under the other.
    """

    def __init__(self) -> None:
        self._console: Any = None
        self._bars: Any = None
        self._open = 0
        self._lock = threading.Lock()

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        """One bar; it vanishes when the step ends and a line with the time taken stays."""
        started = time.monotonic()
        bars, task = self._begin(label, total, unit)

        def advance(amount: float) -> None:
            done = bars.tasks[bars.task_ids.index(task)].completed + amount
            bars.update(task, advance=amount, rate=rate_text(done, time.monotonic() - started, unit))

        try:
            yield advance
        except BaseException:
            self._end(task, "")
            raise
        self._end(task, f"  [green]done[/] {escaped(label)} [dim]{time.monotonic() - started:.1f} s[/]")

    def _begin(self, label: str, total: float | None, unit: str) -> tuple[Any, Any]:
        from rich.console import Console
        from rich.progress import Progress as Bars

        with self._lock:
            if self._bars is None:
                # The stream of now, so that bars go on while `hushed` silences a library.
                self._console = Console(file=sys.stderr, highlight=False)
                self._bars = Bars(*_columns(), console=self._console, transient=True)
                self._bars.start()
            self._open += 1
            return self._bars, self._bars.add_task("", total=total, rate="", label=label, unit=unit)

    def _end(self, task: Any, line: str) -> None:
        with self._lock:
            self._open -= 1
            bars, console = self._bars, self._console
            if self._open == 0:
                bars.stop()
                self._bars = None
            else:
                bars.remove_task(task)
            if line:
                console.print(line)


def escaped(label: str) -> str:
    """`label` without what rich would read as markup."""
    from rich.markup import escape

    return escape(label)


def _columns() -> list[Any]:
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Task as Bar
    from rich.table import Column
    from rich.text import Text

    class Label(ProgressColumn):
        """What gives way in a narrow terminal: never the amount, the time left or the rate."""

        def render(self, bar: Bar) -> Text:
            return Text(bar.fields["label"], no_wrap=True, overflow="ellipsis")

    class Amount(ProgressColumn):
        """Amount, time left and rate; the time taken where the total is not known."""

        def __init__(self) -> None:
            super().__init__(table_column=Column(no_wrap=True))
            self._elapsed, self._left = TimeElapsedColumn(), TimeRemainingColumn()

        def render(self, bar: Bar) -> Text:
            if bar.total is None:
                return self._elapsed.render(bar)
            done = f"{int(bar.completed)}/{int(bar.total)} {bar.fields['unit']}"
            return Text.assemble(done, " ", self._left.render(bar), f" left {bar.fields['rate']}")

    bar = BarColumn(bar_width=12, table_column=Column(no_wrap=True))
    return [SpinnerColumn(), Label(), bar, Amount()]


def rate_text(done: float, seconds: float, unit: str) -> str:
    """Throughput since the beginning: `12.3 steps/s`, or `412 people/h` where a second is too short."""
    if seconds <= 0 or not unit:
        return ""
    rate = done / seconds
    return f"{rate:,.1f} {unit}/s" if rate >= 1 else f"{3600 * rate:,.0f} {unit}/h"


def terminal_progress(quiet: bool = False) -> Progress:
    """Bars when standard error is a terminal, silence when it is piped or `quiet`; lines for another program
    to read where the environment asks for them (`toolkit.progress_lines`)."""
    from toolkit.progress_lines import LINES, VARIABLE, LineProgress

    if os.environ.get(VARIABLE) == LINES:
        return LineProgress()
    return SILENT if quiet or not sys.stderr.isatty() else TerminalProgress()


@contextmanager
def hushed() -> Iterator[None]:
    """Keep a library's own prints and bars off the screen while ours are there."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
