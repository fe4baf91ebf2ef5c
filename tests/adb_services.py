"""The services of the phone in `adb_device`: commands with and without shell protocol v2, and file sync."""

import contextlib
import os
import signal
import stat
import struct
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
_FRAME = struct.Struct("<BI")
_WORDS = struct.Struct("<4sI")
_STAT_V2 = struct.Struct("<4sIQQIIIIQqqq")
_CHUNK = 64 * 1024

Service = Callable[[Any], None]


def open_service(phone: Any, name: str) -> Service | None:
    """What serves the stream that a host opens by `name`; None if the phone has no such service."""
    kind, _, command = name.partition(":")
    kind, *options = kind.split(",")
    if kind == "sync" and not command:
        return Sync(phone).serve
    if kind not in ("shell", "exec"):
        return None
    framed = "v2" in options
    if framed and "shell_v2" not in phone.features:
        return None
    phone.commands.append(command)
    return partial(_shell, phone, command, framed)


def _shell(phone: Any, command: str, framed: bool, stream: Any) -> None:
    """Run `command`; framed: streams apart and the exit status, else everything in one."""
    process = subprocess.Popen(
        [phone.shell, "-c", phone.mapped(command)],
        cwd=phone.root,
        env=phone.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if framed else subprocess.STDOUT,
        start_new_session=True,
    )

    def pump(source: Any, frame: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(source.fileno(), _CHUNK):
                stream.write(_FRAME.pack(frame, len(data)) + data if framed else data)

    readers = [threading.Thread(target=pump, args=(process.stdout, STDOUT))]
    if framed:
        readers.append(threading.Thread(target=pump, args=(process.stderr, STDERR)))
    for reader in readers:
        reader.start()
    threading.Thread(target=_feed, args=(process, stream, framed), daemon=True).start()
    for reader in readers:
        reader.join()
    if not stream.is_open and process.poll() is None:
        # As adbd does when the host is gone: a hang-up for the command, and its pipes are closed.
        process.send_signal(signal.SIGHUP)
    for pipe in filter(None, (process.stdout, process.stderr)):
        pipe.close()
    status = process.wait()
    if framed:
        stream.write(_FRAME.pack(EXIT, 1) + bytes([status if status >= 0 else 128 - status]))


def _feed(process: Any, stream: Any, framed: bool) -> None:
    """Give the host's input to the command; its standard input ends with the stream at the latest."""
    buffer = b""
    # What is still in the buffer of a pipe that nobody reads fails when it is closed, so outermost.
    with contextlib.suppress(OSError, ValueError), process.stdin:
        while data := stream.read():
            if not framed:
                process.stdin.write(data)
                process.stdin.flush()
                continue
            buffer += data
            while len(buffer) >= _FRAME.size:
                frame, length = _FRAME.unpack_from(buffer)
                if len(buffer) < _FRAME.size + length:
                    break
                content, buffer = buffer[_FRAME.size :][:length], buffer[_FRAME.size + length :]
                if frame == CLOSE_STDIN:
                    process.stdin.close()
                elif frame == STDIN:
                    process.stdin.write(content)
                    process.stdin.flush()
    if not stream.is_open and process.poll() is None:
        process.send_signal(signal.SIGHUP)


class Sync:
    """Stat, list, send and receive files: requests of four letters, a length and a path."""

    def __init__(self, phone: Any) -> None:
        self._phone = phone
        self._buffer = b""

    def serve(self, stream: Any) -> None:
        """Answer requests until QUIT."""
        self._stream = stream
        while True:
            name, length = _WORDS.unpack(self._read(_WORDS.size))
            if name == b"QUIT":
                return
            self._answer(name, self._read(length).decode())

    def _answer(self, name: bytes, text: str) -> None:
        try:
            if name in (b"STAT", b"STA2", b"LST2"):
                self._stat(name, self._phone.path(text))
            elif name in (b"LIST", b"LIS2"):
                self._list(self._phone.path(text), name == b"LIS2")
            elif name in (b"RECV", b"RCV2"):
                if name == b"RCV2":
                    self._read(_WORDS.size)  # the flags: how it may be compressed
                self._receive(self._phone.path(text))
            elif name in (b"SEND", b"SND2"):
                path, mode = text, 0o644
                if name == b"SND2":
                    _, mode, _ = struct.unpack("<4sII", self._read(12))
                else:
                    path, _, digits = text.rpartition(",")
                    mode = int(digits)
                self._send(self._phone.path(path), mode)
            else:
                self._fail(f"unknown request {name!r}")
        except OSError as fault:
            self._fail(f"{fault.strerror}")

    def _fail(self, message: str) -> None:
        self._stream.write(_WORDS.pack(b"FAIL", len(message)) + message.encode())

    def _stat(self, name: bytes, path: Path) -> None:
        try:
            found = path.lstat() if name in (b"STAT", b"LST2") else path.stat()
        except OSError as fault:
            empty = struct.pack("<4sIII", name, 0, 0, 0)
            self._stream.write(
                empty if name == b"STAT" else _STAT_V2.pack(name, fault.errno or 5, *([0] * 10))
            )
            return
        if name == b"STAT":
            self._stream.write(struct.pack("<4sIII", name, found.st_mode, _word(found.st_size), _when(found)))
        else:
            self._stream.write(_stat_v2(name, found))

    def _list(self, folder: Path, v2: bool) -> None:
        for entry in sorted(folder.iterdir()):
            found, name = entry.lstat(), entry.name.encode()
            if v2:
                head = _stat_v2(b"DNT2", found)
            else:
                head = struct.pack("<4sIII", b"DENT", found.st_mode, _word(found.st_size), _when(found))
            self._stream.write(head + struct.pack("<I", len(name)) + name)
        self._stream.write(b"DONE" + bytes(_STAT_V2.size if v2 else 16))

    def _receive(self, path: Path) -> None:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                self._stream.write(_WORDS.pack(b"DATA", len(data)) + data)
        self._stream.write(_WORDS.pack(b"DONE", 0))

    def _send(self, path: Path, mode: int) -> None:
        fault: OSError | None = None
        content = bytearray()
        while True:
            name, length = _WORDS.unpack(self._read(_WORDS.size))
            if name == b"DONE":
                break
            content += self._read(length)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISLNK(mode):
                path.symlink_to(content.rstrip(b"\0").decode())
            else:
                path.write_bytes(content)
                path.chmod(0o600 | (mode & 0o777))
                os.utime(path, (length, length))  # DONE carries the time in the place of a length
        except OSError as caught:
            fault = caught
        if fault is None:
            self._stream.write(_WORDS.pack(b"OKAY", 0))
        else:
            self._fail(f"couldn't create file: {fault.strerror}")

    def _read(self, count: int) -> bytes:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < count:
            data = self._stream.read()
            if not data:
                raise EOFError
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self._buffer = whole[count:]
        return whole[:count]


def _word(number: int) -> int:
    return number & 0xFFFFFFFF


def _when(found: os.stat_result) -> int:
    return _word(int(found.st_mtime))


def _stat_v2(name: bytes, found: os.stat_result) -> bytes:
    return _STAT_V2.pack(
        name,
        0,
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        int(found.st_atime),
        int(found.st_mtime),
        int(found.st_ctime),
    )
