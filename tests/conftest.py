"""Fixtures that several test files share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from adb_device import FakePhone
from adb_server import AdbServer, running
from s3_server import S3Server
from sshd import Sshd
from teacher_server import KEY, Server

from toolkit.errors import DeviceError

if TYPE_CHECKING:
    from runtimes.devices.remote import RemoteDevice


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread: a tiny model's layers take less time than waking a second one does."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def edgeplm_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line in `tmp_path`, in this process: (exit code, standard output, standard error)."""
    from toolkit.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts servers that answer by a script, with a key in the environment; they are closed afterwards."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    started: list[Server] = []

    def start(script: Any) -> Server:
        started.append(Server(script))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def one_adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """An adb server for all tests that need one; they are left out where there is no adb."""
    try:
        server = running(tmp_path_factory.mktemp("adb"))
    except DeviceError as missing:
        pytest.skip(str(missing))
    with server as started:
        yield started


@pytest.fixture
def adb(one_adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    """The server, for this test and the programs that it starts; without a device afterwards."""
    for name, value in one_adb_server.variables.items():
        monkeypatch.setenv(name, value)
    yield one_adb_server
    one_adb_server.client("disconnect")


@pytest.fixture
def phone(adb: AdbServer, tmp_path: Path) -> Iterator[FakePhone]:
    """A phone that is connected to the server."""
    made = FakePhone(tmp_path / "phone")
    adb.client("connect", made.serial)
    yield made
    made.close()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A device behind a real sshd on loopback."""
    server = Sshd(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def device(sshd: Sshd) -> "Iterator[RemoteDevice]":
    """That device, as the program has it."""
    from runtimes.devices.remote import RemoteDevice
    from runtimes.devices.ssh import SshShell

    device = RemoteDevice(SshShell(sshd.name, config=sshd.config))
    yield device
    device.close()


@pytest.fixture(scope="session")
def one_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for all tests that need one; they are left out where its packages are not installed."""
    for package in ("s3fs", "moto", "flask", "flask_cors"):
        pytest.importorskip(package, reason=f"no {package} here (pip install -e '.[dev]')")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def s3(one_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, for this test and the programs that it starts, whose environment has the key."""
    import s3fs

    for name, value in one_s3_server.variables.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a file system that is open keeps the key that it began with
    yield one_s3_server
    s3fs.S3FileSystem.clear_instance_cache()
