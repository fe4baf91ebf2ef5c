"""A small Android phone for tests: the device side of the adb protocol over TCP, for the real adb client.

Commands run with a shell of this machine. Paths below /data, /sdcard and /storage are turned into paths of a
sandbox folder, in the text of the command, so neither root rights nor a chroot are needed; programs that a
test puts on the phone (`program`) come first on PATH. It is no Android's shell, and has neither its users nor
SELinux.

Protocol: AOSP packages/modules/adb, docs/dev/protocol.md (packets), docs/dev/sync.md, shell_protocol.h.
"""

import contextlib
import os
import re
import shutil
import socket
import struct
import threading
import time
from pathlib import Path
from queue import SimpleQueue

from adb_services import open_service

VERSION = 0x01000001  # from this one on no packet's checksum is looked at
MAX_DATA = 1 << 20
TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3
HEADER = struct.Struct("<4s5I")  # command, two arguments, length of the data, checksum, command inverted
FEATURES = ("shell_v2", "cmd", "stat_v2", "ls_v2", "sendrecv_v2", "fixed_push_mkdir")
_TOYBOX = (
    "cat chmod cp df find flock getconf grep head ln ls mkdir mv pidof printf rm sha256sum sleep tail true "
    "uname wc"
)
_MAPPED = re.compile(r"(?<![\w./-])/(data|sdcard|storage)(?=[/\s'\"]|$)")


def android_tools(folder: Path) -> dict[str, str] | None:
    """`shell` and `path` of a phone with the programs that Android has, toybox and mksh, linked in `folder`.

    None where they are not installed (Debian: toybox, mksh).
    """
    toybox, mksh = shutil.which("toybox"), shutil.which("mksh")
    if toybox is None or mksh is None:
        return None
    folder.mkdir()
    for name in _TOYBOX.split():
        (folder / name).symlink_to(toybox)
    (folder / "sh").symlink_to(mksh)
    return {"shell": str(folder / "sh"), "path": str(folder)}


class FakePhone:
    """One device; `serial` is what `adb connect` makes of it. Faults may be set while it runs:

    - `state`: "device", "unauthorized" (asks for a key, takes none), "offline" (accepts and says nothing)
    - `cut_output`, `cut_input`: the cable is pulled after so many bytes of streams to or from the host, once
    - `garbage`: the next stream is answered by bytes that are no packet, once
    - `slow`: seconds of rest before every packet
    """

    def __init__(
        self,
        root: Path,
        *,
        features: tuple[str, ...] = FEATURES,
        shell: str = "/bin/sh",
        path: str = os.defpath,
    ) -> None:
        self.root = root
        self.features = features
        self.shell = shell
        self._path = path
        self.state = "device"
        self.cut_output: int | None = None
        self.cut_input: int | None = None
        self.garbage = False
        self.slow = 0.0
        self.commands: list[str] = []
        self.programs = root / "system/bin"
        for folder in (self.programs, root / "data/local/tmp", root / "sdcard"):
            folder.mkdir(parents=True, exist_ok=True)
        self._connections: list[Connection] = []
        self._listen(0)

    @property
    def serial(self) -> str:
        """Host and port, as `adb devices` shows them."""
        return f"127.0.0.1:{self.port}"

    def program(self, name: str, script: str) -> None:
        """Put a program on the phone's PATH: a script for /bin/sh."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{self.mapped(script)}\n")
        path.chmod(0o755)

    def path(self, device_path: str) -> Path:
        """Where a path of the device lies on this machine."""
        return Path(self.mapped(device_path))

    def mapped(self, text: str) -> str:
        """`text` with the device's paths turned into the sandbox's."""
        return _MAPPED.sub(lambda found: f"{self.root}{found[0]}", text)

    @property
    def environment(self) -> dict[str, str]:
        """What commands see: the phone's programs first, and no variable of the test's own."""
        return {"PATH": f"{self.programs}:{self._path}", "HOME": "/", "PHONE": str(self.root)}

    def unplug(self) -> None:
        """Cut every connection; the phone can be connected again."""
        for connection in self._connections:
            connection.cut()
        self._connections.clear()

    def die(self) -> None:
        """adbd ends: every connection is cut and nobody listens any more, until `revive`."""
        # A thread that waits in accept() keeps the port open until it is woken.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(timeout=10)
        self.unplug()

    def revive(self) -> None:
        """adbd is started again, on the same port."""
        self._listen(self.port)

    close = die

    def _listen(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, args=(self._server,), daemon=True)
        self._thread.start()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = server.accept()
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(self, connected)
                self._connections.append(connection)
                threading.Thread(target=connection.serve, daemon=True).start()


class Connection:
    """One transport between an adb server and the phone."""

    def __init__(self, phone: FakePhone, connected: socket.socket) -> None:
        self.phone = phone
        self.max_data = 4096
        self._socket = connected
        self._sending = threading.Lock()
        self._streams: dict[int, Stream] = {}

    def serve(self) -> None:
        """Answer packets until the connection ends."""
        try:
            while True:
                command, first, second, length, _, _ = HEADER.unpack(self._read(HEADER.size))
                self._take(command, first, second, self._read(length))
        except (OSError, EOFError):
            self.cut()

    def cut(self) -> None:
        """End the connection and all its streams."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for stream in list(self._streams.values()):
            stream.ended()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        """Send one packet, or what the faults make of it. Raises OSError once the connection is gone."""
        if self.phone.slow:
            time.sleep(self.phone.slow)
        checksum = sum(data) if command in (b"CNXN", b"AUTH") else 0
        inverted = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        packet = HEADER.pack(command, first, second, len(data), checksum, inverted) + data
        with self._sending:
            left = self.phone.cut_output
            if left is not None and command == b"WRTE":
                self.phone.cut_output = left - len(data)
                if left < len(data):
                    self.phone.cut_output = None
                    self._socket.sendall(packet[: HEADER.size + left])
                    self.cut()
                    raise ConnectionResetError
            self._socket.sendall(packet)

    def forget(self, stream: "Stream") -> None:
        """A stream that has ended."""
        self._streams.pop(stream.local, None)

    def _take(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if self.phone.state == "offline":
            return
        if command == b"CNXN":
            self.max_data = min(MAX_DATA, second)
            if self.phone.state == "unauthorized":
                self.send(b"AUTH", TOKEN, 0, os.urandom(20))
            else:
                self._greet()
        elif command == b"AUTH":
            # After the signatures comes the public key, and the phone asks its owner.
            if self.phone.state == "device":
                self._greet()
            elif first == SIGNATURE:
                self.send(b"AUTH", TOKEN, 0, os.urandom(20))
        elif command == b"OPEN":
            self._open(first, data.rstrip(b"\0").decode())
        elif second in self._streams:
            self._streams[second].take(command, data)
            self._count_input(len(data))
        elif command == b"WRTE":
            self.send(b"CLSE", 0, first)

    def _greet(self) -> None:
        banner = "device::ro.product.name=fake;ro.product.model=Fake Phone 9;ro.product.device=fake;"
        self.send(b"CNXN", VERSION, MAX_DATA, f"{banner}features={','.join(self.phone.features)}".encode())

    def _open(self, remote: int, service: str) -> None:
        if self.phone.garbage:
            self.phone.garbage = False
            self._socket.sendall(os.urandom(HEADER.size * 2))
            return
        serve = open_service(self.phone, service)
        if serve is None:
            self.send(b"CLSE", 0, remote)
            return
        stream = Stream(self, max(self._streams, default=0) + 1, remote)
        self._streams[stream.local] = stream
        self.send(b"OKAY", stream.local, remote)
        threading.Thread(target=stream.serve, args=(serve,), daemon=True).start()

    def _count_input(self, count: int) -> None:
        if self.phone.cut_input is not None:
            self.phone.cut_input -= count
            if self.phone.cut_input < 0:
                self.phone.cut_input = None
                raise ConnectionResetError

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


class Stream:
    """One opened service: bytes both ways, each packet acknowledged before the next."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self.local = local
        self._connection = connection
        self._remote = remote
        self._incoming: SimpleQueue[bytes | None] = SimpleQueue()
        self._ready = threading.Event()
        self._ready.set()
        self._writing = threading.Lock()
        self.is_open = True

    def serve(self, serve) -> None:
        """Run the service and close the stream after it."""
        try:
            serve(self)
            if self.is_open:
                self._connection.send(b"CLSE", self.local, self._remote)
        except (OSError, EOFError):
            pass
        finally:
            self._connection.forget(self)
            self.ended()

    def read(self) -> bytes:
        """The next bytes from the host; none once the stream is closed."""
        data = self._incoming.get()
        if data is None:
            self._incoming.put(None)
            return b""
        with contextlib.suppress(OSError):
            self._connection.send(b"OKAY", self.local, self._remote)
        return data

    def write(self, data: bytes) -> None:
        """Send `data` to the host. Raises OSError once the stream is closed."""
        with self._writing:
            for start in range(0, len(data), self._connection.max_data):
                self._ready.wait()
                if not self.is_open:
                    raise ConnectionResetError
                self._ready.clear()
                part = data[start : start + self._connection.max_data]
                self._connection.send(b"WRTE", self.local, self._remote, part)

    def take(self, command: bytes, data: bytes) -> None:
        """A packet for this stream."""
        if command == b"OKAY":
            self._ready.set()
        elif command == b"WRTE":
            self._incoming.put(data)
        elif command == b"CLSE":
            self.ended()

    def ended(self) -> None:
        """The other side has closed it, or the connection is gone."""
        self.is_open = False
        self._ready.set()
        self._incoming.put(None)
