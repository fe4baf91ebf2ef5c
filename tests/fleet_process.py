"""A fleet as a process of its own, to be watched and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds; a busy machine takes long to start Ray


def fleet_command(recipe: Path, users: Path, out: str, *more: str) -> list[str]:
    """A fleet as a process of its own."""
    return [
        sys.executable, "-m", "toolkit", "fleet", str(recipe), "--users", str(users), "--out", out,
        "--workers", "2", "--json", *more,
    ]  # fmt: skip


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    """Start it, with `variables` in its environment too."""
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | variables,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """(exit code, the result, standard error) of a fleet that ends by itself."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, json.loads(out) if out else {}, err


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid` and what they call themselves."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            parents[int(folder.name)] = int(fields[1])
    below = {pid}
    while grown := {child for child, parent in parents.items() if parent in below} - below:
        below |= grown
    return {child: names[child] for child in below - {pid}}


def until(condition: Any, process: subprocess.Popen[str] | None = None) -> Any:
    """Wait for a condition, for as long as `process` lives."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        if process and process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(process.communicate() if process and process.poll() is not None else "in vain")


def kill_driver(process: subprocess.Popen[str]) -> None:
    """kill -9 of the driver; its workers must end by themselves."""
    assert process.poll() is None, "the driver must still be at work when it is killed"
    children = [pid for pid, name in descendants(process.pid).items() if "Agent" not in name]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
