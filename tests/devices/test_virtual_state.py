"""Bringing devices up and down: nothing half-made stays, and nobody else's process is touched."""

import subprocess
import sys

import pytest
import state
import virtual
from state import Process, State, UnavailableError, VirtualDeviceError


@pytest.fixture
def sleeper():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def test_a_process_is_known_by_its_birth_too(sleeper):
    ours = Process(sleeper.pid, state._born(sleeper.pid))
    reused = Process(sleeper.pid, ours.born - 1)
    assert ours.alive and not reused.alive
    reused.stop()
    assert sleeper.poll() is None
    ours.stop()
    assert not ours.alive


def test_a_device_that_cannot_be_built_leaves_nothing(tmp_path):
    def build(fresh):
        (fresh / "root").mkdir()
        raise VirtualDeviceError("no such package")

    with pytest.raises(VirtualDeviceError, match="no such package"):
        virtual._built(tmp_path / "pi", build)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_does_not_start_is_taken_away_and_the_other_one_stays(tmp_path, monkeypatch, capsys):
    started = []

    def pi(folder, found):
        (folder / "pi").mkdir()
        found.devices["pi"] = "ssh://virtual-pi"
        return "aarch64"

    def android(folder, found):
        (folder / "android").mkdir()
        process = state.start([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
        found.processes["android"] = process
        started.append(process)
        raise UnavailableError("adbd cannot be had")

    for name in ("become_root", "needed_programs"):
        monkeypatch.setattr(virtual, name, lambda *arguments: None)
    monkeypatch.setattr(virtual.emulator, "enable", lambda folder: None)
    monkeypatch.setattr(virtual, "_bring_up_pi", pi)
    monkeypatch.setattr(virtual, "_bring_up_android", android)
    virtual.up(tmp_path)
    assert "The virtual Android is not up: adbd cannot be had" in capsys.readouterr().out
    assert not started[0].alive and not (tmp_path / "android").exists()
    assert state.load(tmp_path).devices == {"pi": "ssh://virtual-pi"}


def test_without_root_it_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(state.os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="sudo make devices-up"):
        virtual.up(tmp_path / "devices")
    assert not (tmp_path / "devices").exists()


def test_state_is_read_as_it_was_written(tmp_path):
    before = State({"pi": Process(1, 2)}, {"A": "b"}, {"pi": "ssh://virtual-pi"}, {"pi": 40000})
    state.save(before, tmp_path)
    assert state.load(tmp_path) == before
    assert state.load(tmp_path / "elsewhere") == State()
