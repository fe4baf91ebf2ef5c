"""This machine as a device: the agent in a process of its own, so that memory and crashes are its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from runtimes.agent import END_WITH_PARENT
from runtimes.devices import Device, OnSample, Sample
from runtimes.devices.stream import check_end, parse_sample
from runtimes.facts import Facts
from runtimes.plan import Plan
from runtimes.survey import survey_here
from toolkit.errors import DeviceError
from toolkit.progress import SILENT, Progress

_PACKAGES = Path(__file__).resolve().parents[2]
# -P: the folder the user happens to be in must not shadow a module of ours.
_AGENT = (sys.executable, "-P", "-m", "runtimes.agent")
_STDERR_LINES = 8


class LocalDevice(Device):
    """Runs the agent as a subprocess in its own process group, which ends with the call.

    `timeout` is the longest run in seconds (None: no limit), `agent` the command that starts the agent.
    """

    name = "local"

    def __init__(self, *, timeout: float | None = None, agent: Sequence[str] | None = None) -> None:
        self.timeout = timeout
        self._running: set[subprocess.Popen[str]] = set()
        self.agent = tuple(agent) if agent else (*_AGENT, f"{END_WITH_PARENT}{os.getpid()}")

    def facts(self) -> Facts:
        """What this machine is."""
        return survey_here()

    def place(self, bundle: Path, progress: Progress = SILENT) -> str:
        """The bundle is here already."""
        return str(bundle.resolve())

    def run(self, plan: Plan, on_sample: OnSample | None = None) -> list[Sample]:
        """Run `plan` in a fresh process; whatever ends this call ends the process too."""
        samples: list[Sample] = []
        stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        with _started(self.agent) as agent, self._closable(agent):
            reader = threading.Thread(target=_drain, args=(agent, stderr), daemon=True)
            reader.start()
            late = threading.Event()

            def give_up() -> None:
                late.set()
                _kill(agent)

            timer = threading.Timer(self.timeout or 0, give_up)
            timer.daemon = True
            if self.timeout is not None:
                timer.start()
            try:
                _send(agent, plan)
                for line in cast(IO[str], agent.stdout):
                    sample = parse_sample(line)
                    samples.append(sample)
                    if on_sample is not None:
                        on_sample(sample)
                status = agent.wait()
            finally:
                timer.cancel()
            reader.join(timeout=5)
        too_long = f"no end within {self.timeout:g} s" if late.is_set() else ""
        check_end(samples, status, stderr, device=self.name, late=too_long)
        return samples

    def close(self) -> None:
        """End the runs that are under way in other threads."""
        for agent in tuple(self._running):
            _kill(agent)

    @contextmanager
    def _closable(self, agent: "subprocess.Popen[str]") -> Iterator[None]:
        self._running.add(agent)
        try:
            yield
        finally:
            self._running.discard(agent)


@contextmanager
def _started(command: Sequence[str]) -> "Iterator[subprocess.Popen[str]]":
    """The agent's process; it and its children are killed when the block ends, however it ends."""
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        agent = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
    except OSError as fault:
        raise DeviceError(f"cannot start the agent ({fault})", where="device local, step start") from fault
    with agent:
        try:
            yield agent
        finally:
            _kill(agent)


def _kill(agent: "subprocess.Popen[str]") -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(agent.pid, signal.SIGKILL)
    elif agent.poll() is None:
        agent.kill()


def _send(agent: "subprocess.Popen[str]", plan: Plan) -> None:
    stdin = cast(IO[str], agent.stdin)
    # An agent that died at once has closed the pipe; what it said on standard error tells why.
    with contextlib.suppress(BrokenPipeError):
        stdin.write(json.dumps(plan.as_dict()))
        stdin.close()


def _drain(agent: "subprocess.Popen[str]", lines: "deque[str]") -> None:
    lines.extend(text for line in cast(IO[str], agent.stderr) if (text := line.rstrip()))
