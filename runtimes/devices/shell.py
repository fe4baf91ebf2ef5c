"""A POSIX shell on a device, reached through a client program: OpenSSH's `ssh`, Android's `adb`.

Scripts are constants of this program. Whatever comes from outside travels as an argument, quoted for the
device's shell, so that no name or path is ever read as a command.
"""

import os
import re
import select
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, cast

from toolkit.errors import DeviceError

# The device itself says how the script ended: a client's exit status may as well be that of its connection.
_WRAP = 'edgeplm_script=$1; shift; (eval "$edgeplm_script"); printf "\\nedgeplm-status %d\\n" "$?" >&2'
# What a login shell's own start-up files print comes before this.
_BEGIN = b"edgeplm-begin\n"
_RUN = f'printf "edgeplm-begin\\n"; {_WRAP}'
_STATUS = re.compile(rb"(?:\A|\n)edgeplm-status (\d+)\r?\n\Z")
DEFAULT_TIMEOUT = 60.0
_WATCH_SECONDS = 0.2


@dataclass(frozen=True)
class Output:
    """What a script on the device did: exit status, bytes of its standard output, its standard error."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")


class Shell(ABC):
    """Runs scripts on one device. `name` is the device as a person wrote it; it is in every error."""

    name: str

    @abstractmethod
    def command(self, line: str) -> list[str]:
        """The client program's argument list that has the device's shell run `line`."""

    @abstractmethod
    def explain(self, status: int, said: str) -> tuple[str, str | None]:
        """What it means that the client ended with `status` and `said` before the script ended, and how to
        mend it (or None)."""

    def run(
        self,
        script: str,
        *arguments: str,
        step: str,
        stdin: bytes | IO[bytes] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        watch: Callable[[], None] | None = None,
    ) -> Output:
        """Run `script` with `arguments` as $1, $2, ... and wait for its end.

        `stdin` is given to it as it is: bytes, or a file from where it stands. With a file, `watch` is called
        a few times a second until the end. A script that fails is no error: its status is in the output.
        Raises DeviceError with the device and `step` if the connection fails or the script takes longer
        than `timeout` seconds.
        """
        content: bytes | None = None
        source: int | IO[bytes] = subprocess.DEVNULL
        if isinstance(stdin, bytes):
            content, source = stdin, subprocess.PIPE
        elif stdin is not None:
            source = stdin
        try:
            client = subprocess.Popen(
                self.command(self.line(_RUN, script, *arguments)),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as fault:
            raise self.fault(
                step, f"cannot start {fault.filename or 'the client program'} ({fault.strerror})"
            ) from fault
        with client:
            try:
                out, said = _communicate(client, content, timeout, watch)
            except subprocess.TimeoutExpired as late:
                raise self.fault(
                    step, f"no end within {timeout:g} s", "Look whether it still answers"
                ) from late
            finally:
                client.kill()
        status, stderr = split_status(said)
        if status is None:
            raise self.fault(step, *self.explain(client.returncode, stderr))
        return Output(status, out.partition(_BEGIN)[2], stderr)

    def start(self, script: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a long-running `script` with its three streams as pipes; ending the process ends the
        connection, and the script must end by itself when its standard input does.

        `split_status` of all that it wrote to standard error tells its exit status.
        """
        return subprocess.Popen(
            self.command(self.line(_WRAP, script, *arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def fault(self, step: str, what: str, mend: str | None = None) -> DeviceError:
        """A DeviceError that names this device and `step`."""
        return DeviceError(what, where=f"device {self.name}, step {step}", mend=mend)

    def close(self) -> None:
        """End the connection if one is kept open."""
        return

    @staticmethod
    def line(script: str, *arguments: str) -> str:
        """One line for any login shell that has a POSIX `sh` run `script` with `arguments`."""
        return shlex.join(["sh", "-c", script, "sh", *arguments])


def split_status(said: bytes) -> tuple[int | None, str]:
    """The exit status at the end of a script's standard error and what comes before it.

    None if the status is missing: the connection or its client ended first.
    """
    ended = _STATUS.search(said)
    text = said[: ended.start()] if ended else said
    return (int(ended[1]) if ended else None), text.decode("utf-8", "replace").strip()


def await_line(process: "subprocess.Popen[bytes]", line: str, timeout: float) -> bool:
    """Read the process's standard output up to `line`; False if it ends or `timeout` seconds pass before."""
    stdout = cast(IO[bytes], process.stdout)
    wanted, heard = line.encode(), b""
    deadline = time.monotonic() + timeout
    while wanted not in heard.splitlines():
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stdout], [], [], left)[0]:
            return False
        some = os.read(stdout.fileno(), 4096)
        if not some:
            return False
        heard = (heard + some)[-65536:]
    return True


def _communicate(
    client: "subprocess.Popen[bytes]",
    content: bytes | None,
    timeout: float | None,
    watch: Callable[[], None] | None,
) -> tuple[bytes, bytes]:
    """All that the client wrote; TimeoutExpired after `timeout` seconds."""
    if watch is None or content is not None:
        # Called again after its timeout, Python's own `communicate` forgets what it has still to write.
        return client.communicate(content, timeout)
    started = time.monotonic()
    while True:
        try:
            return client.communicate(timeout=_WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            watch()
            if timeout is not None and time.monotonic() - started > timeout:
                raise
