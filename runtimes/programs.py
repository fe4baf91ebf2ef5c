"""Asking a program of the device's own, such as `vcgencmd` or `dumpsys`. Standard library only."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from runtimes.facts import said

# A healthy vcgencmd takes milliseconds and dumpsys tenths of a second; one that hangs must not hold up a run.
_TIMEOUT = 3.0
# What Android's programs need; LD_LIBRARY_PATH and its like are for our own Python and would break them.
_KEPT = ("ANDROID_ROOT", "ANDROID_DATA", "ANDROID_ART_ROOT", "ANDROID_I18N_ROOT", "ANDROID_TZDATA_ROOT",
         "BOOTCLASSPATH")  # fmt: skip
_unusable: set[tuple[str, ...]] = set()


def ask(root: Path, places: Sequence[str], *arguments: str) -> str | None:
    """What the first program found at `places` (paths below `root`) prints for `arguments`.

    Where `root` is a snapshot of a device, what the program said there. None where there is none, or it fails
    or takes too long; it is then not asked again by this process. Never to be called within a timed region.
    """
    if told := said(root, "-".join((places[0].rpartition("/")[2], *arguments))):
        return told
    program = next((path for place in places if os.access(path := root / place, os.X_OK)), None)
    if program is None or (question := (str(program), *arguments)) in _unusable:
        return None
    environment = {"PATH": "/usr/bin:/bin:/system/bin", "LC_ALL": "C"}
    environment |= {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        done = subprocess.run(
            question,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        _unusable.add(question)
        return None
    return done.stdout.decode("utf-8", "replace")
