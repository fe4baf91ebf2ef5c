"""A device behind a shell: the bundle is pushed there, the agent runs there, its samples come back."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from exporters.bundle import MANIFEST
from runtimes.devices import Device, OnSample, Sample
from runtimes.devices.push import push_bundle
from runtimes.devices.shell import Shell, split_status
from runtimes.devices.snapshot import device_facts
from runtimes.devices.store import BUSY, LOCK, Item, Store, one_line, who
from runtimes.devices.stream import check_end, parse_sample, step_of
from runtimes.facts import Facts
from runtimes.package import Agent, agent_package
from runtimes.plan import Plan
from toolkit.progress import SILENT, Progress

_HOME = 'printf "%s" "$HOME"'
FOLDER = ".edgeplm"  # below the home folder
# $1 root, $2 bundle, $3 the agent's file, $4 its sha256: prints the manifest.
_LOOK = """
cat "$2/manifest.json" || exit 66
[ -f "$1/agents/$3" ] || exit 3
sum=$(sha256sum <"$1/agents/$3"); [ "${sum%% *}" = "$4" ] || exit 3
"""
_NO_BUNDLE, _NO_AGENT = 66, 3
_PLACE_AGENT = 'cd "$1" && rm -f agents/*.pyz && mv -f "objects/$3" "agents/$2"'
# $1 root, $2 who, $3 runtime, $4 the agent's file. The lock stays the agent's for as long as it lives.
_RUN = (
    LOCK
    + """
launcher=$1/environments/$3/python
[ -f "$launcher" ] || exit 69
sh "$launcher" "$1/agents/$4" --end-with-input
} 9>>"$1/lock"
"""
)
_NOT_PREPARED = 69
_CANNOT_RUN, _NO_PROGRAM = 126, 127  # a shell's own, of the program it was to start
_STDERR_LINES, _STDERR_KEPT = 8, 200


class RemoteDevice(Device):
    """The device that `shell` reaches.

    `root` is EdgePLM's folder there, an absolute path (default: .edgeplm in the home folder); `timeout` is
    the longest run in seconds (None: no limit).
    """

    def __init__(self, shell: Shell, root: str | None = None, *, timeout: float | None = None) -> None:
        self.shell = shell
        self.name = shell.name
        self.timeout = timeout
        self._root = root

    @property
    def store(self) -> Store:
        """The device's folder."""
        return Store(self.shell, self.root)

    @property
    def root(self) -> str:
        """EdgePLM's folder on the device."""
        if self._root is None:
            home = self.shell.run(_HOME, step="connect").text
            self._root = f"{home.rstrip('/')}/{FOLDER}" if home else ""
        if not self._root.startswith("/"):
            raise self.shell.fault("connect", f"its folder {self._root!r} is not an absolute path")
        return self._root

    def facts(self) -> Facts:
        """What the device is, read from its kernel's files; it needs no Python."""
        return device_facts(self.shell, self.root)

    def place(self, bundle: Path, progress: Progress = SILENT) -> str:
        """Push what is missing of `bundle`, have every file's hash checked there, and return its folder."""
        return push_bundle(self.store, bundle, progress)

    def run(self, plan: Plan, on_sample: OnSample | None = None) -> list[Sample]:
        """Run `plan` on the device; the agent there ends with this call, however that ends."""
        agent = agent_package()
        runtime = self._ready(plan, agent)
        ended = self._follow(plan, on_sample, _RUN, self.root, who(), runtime, agent.name)
        self._check(ended, runtime)
        return ended.samples

    def close(self) -> None:
        self.shell.close()

    def _ready(self, plan: Plan, agent: Agent) -> str:
        """The runtime of the plan's bundle, once the agent is on the device."""
        output = self.shell.run(_LOOK, self.root, plan.bundle, agent.name, agent.sha256, step="look")
        if output.status not in (0, _NO_AGENT):
            raise self.shell.fault("look", f"has no bundle {plan.bundle!r}", "Place it first")
        if output.status == _NO_AGENT:
            self._place_agent(agent)
        try:
            return str(json.loads(output.stdout)["runtime"]["name"])
        except (ValueError, KeyError, TypeError):
            raise self.shell.fault(
                "look", f"{plan.bundle}/{MANIFEST} cannot be read", "Place it again"
            ) from None

    def _place_agent(self, agent: Agent) -> None:
        store = self.store
        with store.held() as room:
            item = Item(agent.content, len(agent.content), agent.sha256, "the agent")
            store.send([item], room, f"push the agent to {self.name}")
            moved = self.shell.run(_PLACE_AGENT, store.root, agent.name, agent.sha256, step="push")
            store.check(moved, "push", "cannot place the agent")

    def _follow(self, plan: Plan, on_sample: OnSample | None, script: str, *arguments: str) -> "Ended":
        """Start a script that writes samples, give it `plan`, and read it to its end."""
        samples: list[Sample] = []
        process = self.shell.start(script, *arguments)
        late = threading.Event()
        with _watched(process, plan, self.timeout, late) as said:
            for line in cast(IO[bytes], process.stdout):
                sample = parse_sample(line.decode("utf-8", "replace"))
                samples.append(sample)
                if on_sample is not None:
                    on_sample(sample)
        status, stderr = split_status(b"".join(said))
        return Ended(samples, status, stderr, process.returncode, late.is_set())

    def _check(self, ended: "Ended", runtime: str) -> None:
        """Raise DeviceError unless the agent came to its end."""
        samples, status, stderr = ended.samples, ended.status, ended.stderr
        if ended.complete or ended.late:
            status = 0 if status is None else status
        if status is None:
            raise self.shell.fault(step_of(samples), *self.shell.explain(ended.client, stderr))
        if not samples:
            self._check_start(status, stderr, runtime)
        too_long = f"no end within {self.timeout:g} s" if ended.late else ""
        # A shell tells of a signal as 128 and its number.
        status = 128 - status if status > 128 else status
        check_end(samples, status, stderr.splitlines()[-_STDERR_LINES:], device=self.name, late=too_long)

    def _check_start(self, status: int, stderr: str, runtime: str) -> None:
        prepare = f"Prepare it: `edgeplm devices prepare {self.name}`"
        if status == BUSY:
            raise self.store.busy(stderr)
        if status == _NOT_PREPARED:
            raise self.shell.fault("start", f"is not prepared for {runtime}", prepare)
        if status == _CANNOT_RUN or "Exec format error" in stderr:
            raise self.shell.fault(
                "start",
                f"its environment for {runtime} is made for another processor ({one_line(stderr)})",
                prepare,
            )
        if status == _NO_PROGRAM:
            raise self.shell.fault(
                "start", f"its environment for {runtime} is damaged ({one_line(stderr)})", prepare
            )


@dataclass(frozen=True)
class Ended:
    """A script's samples and how it ended: its exit status (None: the connection ended first), its standard
    error, the client's own exit status, and whether it was ended for taking too long."""

    samples: list[Sample]
    status: int | None
    stderr: str
    client: int
    late: bool

    @property
    def complete(self) -> bool:
        """Whether the samples themselves say how it went."""
        return any(sample["kind"] in ("done", "error") for sample in self.samples)


@contextmanager
def _watched(
    process: "subprocess.Popen[bytes]", plan: Plan, timeout: float | None, late: threading.Event
) -> Iterator[list[bytes]]:
    """The lines of the agent's standard error; the plan is sent, and the client ended with the block.

    The agent's standard input stays open for as long as the samples are wanted: it ends with it.
    """
    said: list[bytes] = []

    def give_up() -> None:
        late.set()
        process.kill()

    def send() -> None:
        # An agent that died at once has closed the pipe; what it said on standard error tells why.
        with suppress(OSError, ValueError):
            stdin = cast(IO[bytes], process.stdin)
            stdin.write(json.dumps(plan.as_dict()).encode() + b"\n")
            stdin.flush()

    reader = threading.Thread(target=_drain, args=(cast(IO[bytes], process.stderr), said), daemon=True)
    sender = threading.Thread(target=send, daemon=True)
    timer = threading.Timer(timeout or 0, give_up)
    timer.daemon = True
    with process:
        try:
            reader.start()
            sender.start()
            if timeout is not None:
                timer.start()
            yield said
            process.wait()
            reader.join(timeout=5)
        finally:
            timer.cancel()
            process.kill()
            reader.join(timeout=5)


def _drain(stream: IO[bytes], lines: list[bytes]) -> None:
    for line in stream:
        lines.append(line)
        del lines[:-_STDERR_KEPT]
