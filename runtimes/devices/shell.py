"""A POSIX shell on a device, reached through a client program: OpenSSH's `ssh`, Android's `adb`.

Scripts are constants of this program. Whatever comes from outside travels as an argument, quoted for the
device's shell, so that no name or path is ever read as a command.
"""

import re
import shlex
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import IO

from toolkit.errors import DeviceError

# The device itself says how the script ended: a client's exit status may as well be that of its connection.
_WRAP = 'edgeplm_script=$1; shift; (eval "$edgeplm_script"); printf "\\nedgeplm-status %d\\n" "$?" >&2'
_STATUS = re.compile(rb"\nedgeplm-status (\d+)\r?\n\Z")
DEFAULT_TIMEOUT = 60.0


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
    ) -> Output:
        """Run `script` with `arguments` as $1, $2, ... and wait for its end.

        `stdin` is given to it as it is: bytes, or a file from where it stands. A script that fails is no
        error: its status is in the output. Raises DeviceError with the device and `step` if the connection
        fails or the script takes longer than `timeout` seconds.
        """
        content = stdin if isinstance(stdin, bytes) else None
        source = None if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL
        try:
            done = subprocess.run(
                self.command(self.line(_WRAP, script, *arguments)),
                input=content,
                stdin=source,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise self.fault(step, f"no end within {timeout:g} s", "Look whether it still answers") from late
        except OSError as fault:
            raise self.fault(
                step, f"cannot start {fault.filename or 'the client program'} ({fault.strerror})"
            ) from fault
        ended = _STATUS.search(done.stderr)
        if ended is None:
            raise self.fault(
                step, *self.explain(done.returncode, done.stderr.decode("utf-8", "replace").strip())
            )
        stderr = done.stderr[: ended.start()].decode("utf-8", "replace").strip()
        return Output(int(ended[1]), done.stdout, stderr)

    def start(self, script: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a long-running `script` with its three streams as pipes; ending the process ends the
        connection, and the script must end by itself when its standard input does."""
        return subprocess.Popen(
            self.command(self.line(script, *arguments)),
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
