"""A real sshd on loopback, with keys of its own, for one test: `Sshd(folder)`; stopped by its process id."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd",) if os.path.exists(p)), None)
needs_sshd = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")),
    reason="no OpenSSH server and client here (Debian: apt install openssh-server)",
)
HERE = Path(__file__).parent


class Sshd:
    """The server, its client's configuration in `config`, and a home folder for those who log in."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.config = folder / "client.conf"
        self.known_hosts = folder / "known_hosts"
        self.port = free_port()
        for name in ("host", "user"):
            self.make_key(name)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        (folder / "authorized").chmod(0o600)
        (folder / "sshd.conf").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nSetEnv HOME={self.home}\n"
        )
        self.know_host()
        self.write_config()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def name(self) -> str:
        return f"ssh://board:{self.port}"

    def make_key(self, name: str) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
        subprocess.run(command, check=True)

    def know_host(self) -> None:
        key = (self.folder / "host.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")

    def write_config(self, more: str = "") -> None:
        self.config.write_text(
            f"Host board\n HostName 127.0.0.1\n IdentityFile {self.folder}/user\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {self.known_hosts}\n GlobalKnownHostsFile none\n{more}"
        )

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation asks for it
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd.conf")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while True:
            # Its greeting is waited for: a port nobody listens at may connect to itself.
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
                peer.settimeout(5)
                if peer.recv(4) == b"SSH-":
                    return
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def cut(self) -> None:
        """Kill what serves the connections that stand, and the server itself, without a word to anybody."""
        assert self.process is not None
        servers = descendants(self.process.pid)
        self.process.kill()
        for pid in servers:
            with suppress(FileNotFoundError, ProcessLookupError):
                if "sshd" in Path(f"/proc/{pid}/comm").read_text():
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def prepare(self, runtime: str, fault: str = "") -> Path:
        """An environment whose launcher runs tests/fake_engine.py in place of the agent's own engines."""
        folder = self.home / ".edgeplm/environments" / runtime
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "python").write_text(
            '#!/bin/sh\nagent=$1; shift\nexport OMP_NUM_THREADS=1 PYTHONPATH="$agent" PYTHONSAFEPATH=1\n'
            f'exec {sys.executable} {HERE}/fake_engine.py "{fault}" "$@"\n'
        )
        return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, from /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found
