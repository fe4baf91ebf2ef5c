"""A device's shell over OpenSSH's own client, which brings the user's keys, agent, hosts and jumps with it.

One connection carries everything (ssh_config(5), ControlMaster). It is the child of this process and ends
when its standard input does, so that it outlives neither `close` nor a killed host. Host keys are always
checked.
"""

import atexit
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, cast

from runtimes.devices.shell import Shell, await_line
from runtimes.devices.ssh_address import SshAddress, parse_ssh_address
from runtimes.devices.ssh_faults import explain

CONFIG_VARIABLE = "EDGEPLM_SSH_CONFIG"  # a file for ssh's -F, in place of ~/.ssh/config
CONNECT_SECONDS = 15
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "NoHostAuthenticationForLocalhost": "no",
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "6",
    "LogLevel": "ERROR",  # what went wrong is read from it; a server's banner is no part of that
    # What a user's configuration may set for logging in by hand has no place here.
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "PermitLocalCommand": "no",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "EscapeChar": "none",
}
_READY = "edgeplm-connected"
_STAY = f"echo {_READY}; exec cat >/dev/null"
# A socket's path has room for 104 characters at least, of which ssh takes 17 for a temporary name.
_PLAIN_FOLDER = re.compile(r"/[A-Za-z0-9/_.-]{0,60}\Z")
_CLOSE_SECONDS = 3.0


class SshShell(Shell):
    """Runs scripts on `text`, an `ssh://[user@]host[:port]`.

    `config` is a file in place of ~/.ssh/config (default: what EDGEPLM_SSH_CONFIG names, else ssh's own
    choice). Raises DeviceError if `text` is no such address.
    """

    def __init__(self, text: str, *, config: Path | None = None) -> None:
        self.name = text
        self.address: SshAddress = parse_ssh_address(text)
        chosen = config or os.environ.get(CONFIG_VARIABLE)
        self._config = ["-F", os.fspath(chosen)] if chosen else []
        self._starting = threading.Lock()
        self._master: _Master | None = None

    def command(self, line: str) -> list[str]:
        master = self._connected()
        return [*self._client(master.socket), "-o", "ControlMaster=no", *self.address.options, line]

    def explain(self, status: int, said: str) -> tuple[str, str | None]:
        master = self._master
        connection = "" if master is None or master.alive() else master.said()
        return explain(status, f"{said}\n{connection}", self.address)

    def close(self) -> None:
        with self._starting:
            if self._master is not None:
                self._master.close()
                self._master = None

    def _client(self, socket: Path) -> list[str]:
        options = [part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}")]
        return ["ssh", *self._config, "-T", *options, "-S", str(socket)]

    def _connected(self) -> "_Master":
        """The connection, made anew if there is none or the last one was cut."""
        with self._starting:
            if self._master is not None and self._master.alive():
                return self._master
            if self._master is not None:
                self._master.close()
            self._master = None
            self._master = self._connect()
            return self._master

    def _connect(self) -> "_Master":
        folder = _private_folder()
        socket = folder / "s"
        command = [*self._client(socket), "-o", "ControlMaster=yes", "-o", "ControlPersist=no"]
        try:
            master = _Master(folder, [*command, *self.address.options, self.line(_STAY)])
        except OSError as fault:
            shutil.rmtree(folder, ignore_errors=True)
            mend = "Install OpenSSH's client (Debian: apt install openssh-client)"
            raise self.fault("connect", f"cannot start `ssh` ({fault.strerror})", mend) from fault
        try:
            status = master.wait_until_ready(2 * CONNECT_SECONDS + 10)
        except BaseException:
            master.close()
            raise
        if status is None:
            return master
        said = master.said()
        master.close()
        raise self.fault("connect", *explain(status, said, self.address))


class _Master:
    """The process that keeps the connection; a session that only waits keeps it open."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.socket = folder / "s"
        self._folder = folder
        with open(folder / "said", "wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                # A prompt in a window would wait for nobody.
                env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,  # Ctrl-C is for this program, which then closes the connection
            )
        _AT_EXIT.add(self)

    def wait_until_ready(self, timeout: float) -> int | None:
        """None once the device has answered, else the exit status; -1 if it took too long."""
        if await_line(self._process, _READY, timeout):
            return None
        try:
            return self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return -1

    def alive(self) -> bool:
        return self._process.poll() is None and self.socket.exists()

    def said(self) -> str:
        """What ssh wrote to standard error."""
        try:
            return (self._folder / "said").read_text(encoding="utf-8", errors="replace")[-8192:]
        except OSError:
            return ""

    def close(self) -> None:
        """End the connection, and everything that still runs over it."""
        _AT_EXIT.discard(self)
        process = self._process
        with contextlib.suppress(OSError):
            cast(IO[bytes], process.stdin).close()
        for end in (process.terminate, process.kill):
            try:
                process.wait(timeout=_CLOSE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                end()
        process.wait()
        cast(IO[bytes], process.stdout).close()
        shutil.rmtree(self._folder, ignore_errors=True)


_AT_EXIT: set[_Master] = set()


@atexit.register
def _close_all() -> None:
    for master in list(_AT_EXIT):
        master.close()


def _private_folder() -> Path:
    """A folder of this user's alone whose path is short and plain enough for ssh's ControlPath."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="edgeplm-", dir=usual if _PLAIN_FOLDER.match(usual) else "/tmp"))  # noqa: S108
