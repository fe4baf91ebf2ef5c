"""This machine in place of a device: a real Shell whose lines `sh` runs here, with its own PATH and HOME."""

import os
from pathlib import Path

from runtimes.devices.shell import Shell


class LocalShell(Shell):
    """Runs lines with `sh -c` here, each of which is kept in `lines`.

    `path`: folders that go before PATH, to stand in for a device's tools; `variables` of its environment,
    which has nothing else of ours.
    """

    def __init__(
        self, home: Path, *, path: tuple[Path, ...] = (), name: str = "here", **variables: str
    ) -> None:
        self.name = name
        self.home = home
        self.path = path
        self.variables = variables
        self.lines: list[str] = []

    def command(self, line: str) -> list[str]:
        self.lines.append(line)
        search = os.pathsep.join([*map(str, self.path), os.environ.get("PATH", "/usr/bin:/bin")])
        variables = {"PATH": search, "HOME": str(self.home), **self.variables}
        return ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), "sh", "-c", line]

    def explain(self, status: int, said: str) -> tuple[str, str | None]:
        return f"the shell ended with status {status} ({said})", None
