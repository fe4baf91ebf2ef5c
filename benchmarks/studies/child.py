"""Work in a process of its own: its memory and its processor time are its own, and so is its crash."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtimes.agent import claim_stdout
from toolkit.errors import EdgePLMError

_PACKAGES = Path(__file__).resolve().parents[2]
_LAST_LINES = 6

Request = dict[str, Any]


class CrashError(EdgePLMError):
    """A process that ended without an answer."""


def ask(module: str, request: Request, threads: int) -> Any:
    """What `python -m module` answers to `request`, both JSON; `threads` are all that torch and numpy get.

    Raises EdgePLMError with its message if it refused, CrashError if it ended in any other way.
    """
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            encoding="utf-8",
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": str(threads),
                "OPENBLAS_NUM_THREADS": str(threads),
            },
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process without pipes")
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()  # and not closed: its end tells the process that this one has ended
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            if not _ended(process):
                process.kill()
        if not line:
            complaints.seek(0)
            last = [text.rstrip() for text in complaints if text.strip()][-_LAST_LINES:]
            raise CrashError(
                f"ended with status {process.wait()}; its last lines:\n  " + "\n  ".join(last or ["(none)"]),
                where=module,
            )
    answer = json.loads(line)
    if "refused" in answer:
        raise EdgePLMError(answer["refused"])
    return answer["answer"]


def serve(work: Callable[[Request], Any]) -> int:
    """Answer the one request on standard input with `work`, which may raise EdgePLMError to refuse it."""
    answers = claim_stdout()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = {"answer": work(request)}
    except EdgePLMError as refusal:
        answer = {"refused": str(refusal)}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock would be held when the interpreter ends
    os._exit(1)


def _ended(process: "subprocess.Popen[str]") -> bool:
    """Whether it ends by itself once it has answered; what it measured does not wait for that."""
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return False
    return True
