import json

import pytest
from click.testing import CliRunner

import runtimes.devices.listing
from runtimes.devices.adb import AdbDevice
from toolkit.cli import cli
from toolkit.errors import DeviceError

NOBODY = "ssh://nobody@127.0.0.1:9"


def run(*arguments):
    return CliRunner().invoke(cli, ["devices", *arguments], standalone_mode=False)


@pytest.fixture(autouse=True)
def no_phones(monkeypatch):
    monkeypatch.setattr(runtimes.devices.listing, "list_adb_devices", list)


def test_this_machine_is_listed_with_what_it_can_run():
    done = run()
    assert done.return_value == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "local"
    assert any(line.split() == ["onnxruntime-genai", "ready"] for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_device_that_cannot_be_used_hides_no_other():
    done = run("--device", NOBODY)
    assert done.return_value == 1
    assert "cores" in done.stdout
    assert f"device {NOBODY}, step connect" in " ".join(done.stdout.split())


def test_json_has_facts_and_problems():
    found = json.loads(run("--device", NOBODY, "--json").stdout)
    here, there = found["devices"]
    assert here["facts"]["memory_bytes"] > 0
    assert here["problem"] is None
    assert there["facts"] is None
    assert NOBODY in there["problem"]


def test_the_devices_of_a_recipe_are_looked_at(tmp_path):
    (tmp_path / "r.yaml").write_text(f"task: t\nprofile: p\nbench: {{devices: ['{NOBODY}']}}\n")
    assert NOBODY in run("--recipe", str(tmp_path / "r.yaml")).stdout


def test_what_adb_lists_is_listed_in_whatever_state(monkeypatch):
    phones = [AdbDevice("R5CT", "unauthorized"), AdbDevice("Q7", "offline")]
    monkeypatch.setattr(runtimes.devices.listing, "list_adb_devices", lambda: phones)
    monkeypatch.setattr("runtimes.devices.adb.list_adb_devices", lambda: phones)
    monkeypatch.setattr("runtimes.devices.adb._PASSING_SECONDS", 0.1)
    said = " ".join(run().stdout.split())
    assert "the phone has not allowed this computer" in said
    assert "adb:Q7" in said


def test_without_adb_the_rest_is_listed(monkeypatch):
    def no_adb():
        raise DeviceError("the program adb was not found", where="adb", mend="Install it")

    monkeypatch.setattr(runtimes.devices.listing, "list_adb_devices", no_adb)
    done = run()
    assert done.return_value == 0
    assert "No phones were looked for: adb: the program adb was not found" in done.stderr


def test_this_machine_needs_no_preparation():
    done = run("prepare", "local")
    assert str(done.exception).startswith("device local: needs no preparation")


def test_preparing_an_unknown_device_names_the_known_kinds():
    assert "Known: local, ssh://" in str(run("prepare", "zork").exception)
