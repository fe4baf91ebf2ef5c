"""An adb server of the tests' own: its port, its keys, its end."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtimes.devices.adb_client import adb_program

LOWEST = 5586  # every adb server looks for emulators on the ports 5555 to 5585


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert port >= LOWEST
    return port


class AdbServer:
    """Variables that make every client use this server; it runs in the foreground of its own process."""

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.program = program or adb_program()
        self.port = free_port()
        self.variables = {
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "ADB_MDNS": "0",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [self.program, "-P", str(self.port), "nodaemon", "server"],
            env={**os.environ, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # A client that comes too early would start a server itself.
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return
            assert self._process.poll() is None, "the adb server has ended"
            assert time.monotonic() < deadline, "the adb server does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, as far as it runs."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self, *arguments: str) -> str:
        """What the client says to `arguments`, on both of its streams."""
        done = subprocess.run(
            [self.program, *arguments],
            env={**os.environ, **self.variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr


@contextmanager
def running(folder: Path, program: str | None = None) -> Iterator[AdbServer]:
    """A server that ends with the block."""
    server = AdbServer(folder, program)
    server.start()
    try:
        yield server
    finally:
        server.stop()
