"""Progress that a person can watch: a bar with the time left, on a terminal only."""

import io
import sys
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
    """Bars on standard error with rate and time left; each finished step leaves one line."""

    def __init__(self) -> None:
        from rich.console import Console

        # The stream of now, so that bars go on while `hushed` silences a library.
        self._console = Console(file=sys.stderr, highlight=False)

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        """One bar; it vanishes when the step ends and a line with the time taken stays."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars
        from rich.table import Column

        # In a narrow terminal it is the label that gives way: never the amount, the time left or the rate.
        whole = Column(no_wrap=True)
        columns: list[Any] = [SpinnerColumn(), _label_column(label)]
        columns += [BarColumn(bar_width=12, table_column=whole)]
        if total is None:
            columns += [TimeElapsedColumn(table_column=whole)]
        else:
            columns += [MofNCompleteColumn(table_column=whole), TextColumn(unit)]
            columns += [TimeRemainingColumn(table_column=whole), TextColumn("left {task.fields[rate]}")]
        started = time.monotonic()
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task("", total=total, rate="")

            def advance(amount: float) -> None:
                done = bars.tasks[0].completed + amount
                bars.update(task, advance=amount, rate=rate_text(done, time.monotonic() - started, unit))

            yield advance
        self._console.print(f"  [green]done[/] {label} [dim]{time.monotonic() - started:.1f} s[/]")


def _label_column(label: str) -> Any:
    """A column that shows `label` in one line, cut with an ellipsis where there is no room."""
    from rich.progress import RenderableColumn
    from rich.text import Text

    return RenderableColumn(Text(label, no_wrap=True, overflow="ellipsis"))


def rate_text(done: float, seconds: float, unit: str) -> str:
    """Throughput since the beginning: `12.3 steps/s`, or `412 people/h` where a second is too short."""
    if seconds <= 0 or not unit:
        return ""
    rate = done / seconds
    return f"{rate:,.1f} {unit}/s" if rate >= 1 else f"{3600 * rate:,.0f} {unit}/h"


def terminal_progress(quiet: bool = False) -> Progress:
    """Bars when standard error is a terminal, silence when it is piped or `quiet`."""
    return SILENT if quiet or not sys.stderr.isatty() else TerminalProgress()


@contextmanager
def hushed() -> Iterator[None]:
    """Keep a library's own prints and bars off the screen while ours are there."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
