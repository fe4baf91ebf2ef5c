"""Running other programs, and finding their parts."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Each lives for seconds: the second compiler and the parallel collector would cost more than they bring.
JAVA = ("java", "-Xmx900m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class FailedError(Exception):
    """A step that did not succeed; the message is what its program said."""


def run(
    command: Sequence[str], *, cwd: Path | None = None, libraries: Sequence[str] = (), errors: bool = False
) -> str:
    """Standard output of `command`, with standard error if `errors`; raises FailedError with what it said."""
    environment = {**os.environ}
    if libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    done = subprocess.run(
        list(command),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FailedError(
            "\n".join((done.stdout + done.stderr).splitlines()[:60]) or f"status {done.returncode}"
        )
    return done.stdout + (done.stderr if errors else "")


def join(paths: Sequence[Path]) -> str:
    """A class path."""
    return os.pathsep.join(map(str, paths))
