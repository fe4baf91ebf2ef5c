"""Pushes over a real sshd on loopback that are cut in the middle."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from bundles import small_bundle
from sshd import HERE, descendants, needs_sshd
from userlands import Recorder

from exporters.bundle import open_bundle
from toolkit.errors import DeviceError

pytestmark = needs_sshd
SIZE = 12_000_000


def kill_the_client() -> None:
    for pid in descendants(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
            if b'cat >>"$part"' in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", ["the client is killed", "the server is killed"])
def test_a_push_that_is_cut_goes_on_where_it_stood(sshd, device, tmp_path, end):
    sshd.write_config(f" ProxyCommand {sys.executable} {HERE}/slow_line.py %h %p 3000000\n")
    bundle = small_bundle(tmp_path / "bundle", {"model.onnx.data": SIZE})

    def cut(megabytes: float) -> None:
        if megabytes > 3:
            if end == "the client is killed":
                kill_the_client()
            elif sshd.process is not None:
                sshd.cut()

    with pytest.raises(DeviceError) as caught:
        device.place(bundle, Recorder(cut))
    assert str(caught.value).startswith(f"device {sshd.name}, step push: the connection was cut")
    assert "then run the same command again" in str(caught.value)
    root = sshd.home / ".edgeplm"
    part = next((root / "incoming").iterdir())
    assert not list((root / "bundles").iterdir())
    if sshd.process is None:
        sshd.start()
    sshd.write_config()
    recorder = Recorder()
    folder = device.place(bundle, recorder)
    open_bundle(Path(folder))
    assert 0 < recorder.pushed < SIZE - 500_000
    assert not part.exists()
    assert device.place(bundle, second := Recorder()) == folder
    assert second.pushed == 0
