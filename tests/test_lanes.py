import json
import sys
import threading
from pathlib import Path

import pytest
from click import UsageError
from click.testing import CliRunner
from fake_bundle import fake_bundle

import runtimes.devices
from benchmarks.lanes import measure_in_lanes, result_path
from runtimes.devices.local import LocalDevice
from toolkit.cli import cli
from toolkit.errors import DeviceError

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
QUICK = ["--prompt-tokens", "8", "--decode-tokens", "4", "--repeat", "3", "--settle", "0"]


class Board(LocalDevice):
    """This machine under another name; some faults are those of tests/fake_engine.py."""

    runs: list[str] = []  # noqa: RUF012 - shared on purpose: which boards were measured

    def __init__(self, name):
        fault = name.partition("#")[2]
        super().__init__(agent=[*FAKE, fault])
        self.name = name

    def run(self, plan, on_sample=None):
        Board.runs.append(self.name)
        return super().run(plan, on_sample)


@pytest.fixture(autouse=True)
def boards(monkeypatch):
    monkeypatch.setattr(runtimes.devices, "parse_device", Board)
    Board.runs = []


def bench(bundle, *arguments):
    given = ["bench", str(bundle), *QUICK, *map(str, arguments)]
    return CliRunner().invoke(cli, given, standalone_mode=False)


def test_every_device_gets_a_row_and_a_file(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    done = bench(bundle, "--device", "ssh://pi@one", "--device", "adb:TWO", "--out", tmp_path / "out")
    assert sorted(Board.runs) == ["adb:TWO", "ssh://pi@one"]
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "t/s" in rows["ssh://pi@one"]
    assert "MB" in rows["adb:TWO"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adb_TWO.json", "ssh_pi@one.json"]
    kept = json.loads((tmp_path / "out" / "adb_TWO.json").read_text())
    assert kept["environment"]["device"] == "adb:TWO"


def test_a_lane_that_fails_leaves_the_others_alone(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    done = bench(bundle, "--device", "one", "--device", "two#exit", "--out", tmp_path / "out")
    assert done.return_value == 1
    assert "device two#exit, step load: the agent exited with status 5" in done.stderr
    assert "failed" in next(line for line in done.stdout.splitlines() if line.startswith("two#exit"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one.json"]


def test_resume_measures_only_what_is_missing(tmp_path):
    bundle, out = fake_bundle(tmp_path / "bundle"), tmp_path / "out"
    bench(bundle, "--device", "one", "--device", "two#exit", "--out", out)
    before = (out / "one.json").read_bytes()
    Board.runs = []
    bench(bundle, "--device", "one", "--device", "three", "--out", out, "--resume")
    assert Board.runs == ["three"]
    assert (out / "one.json").read_bytes() == before
    Board.runs = []
    bench(bundle, "--device", "one", "--device", "three", "--out", out, "--resume", "--threads", "1")
    assert sorted(Board.runs) == ["one", "three"]  # another setting is another measurement


def test_results_are_not_replaced_unasked(tmp_path):
    bundle, out = fake_bundle(tmp_path / "bundle"), tmp_path / "out"
    bench(bundle, "--device", "one", "--device", "two", "--out", out)
    again = bench(bundle, "--device", "one", "--device", "two", "--out", out)
    assert again.exception is not None
    assert "--force" in str(again.exception)


def test_json_of_several_devices_has_results_and_errors(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    done = bench(bundle, "--device", "one", "--device", "two#exit", "--json")
    one, two = json.loads(done.stdout)
    assert one["result"]["statistics"]["ttft"]["values"]
    assert one["error"] is None
    assert two["result"] is None
    assert "device two#exit" in two["error"]


def test_a_device_given_twice_is_refused(tmp_path):
    done = bench(fake_bundle(tmp_path), "--device", "one", "--device", "one")
    assert isinstance(done.exception, DeviceError)
    assert str(done.exception) == "device one: given twice. Name each device once"


def test_resume_needs_a_place_to_go_on_from(tmp_path):
    done = bench(fake_bundle(tmp_path), "--resume")
    assert isinstance(done.exception, UsageError)
    assert "--resume needs --out" in done.exception.message


def test_an_interrupt_ends_every_lane():
    class Endless(LocalDevice):
        def __init__(self, name):
            super().__init__()
            self.name = name
            self.ended = threading.Event()

        def close(self):
            self.ended.set()

    devices = [Endless("one"), Endless("two")]

    def measure(device):
        if device.name == "two":
            raise KeyboardInterrupt
        assert device.ended.wait(20)
        raise DeviceError("was closed")

    with pytest.raises(KeyboardInterrupt):
        measure_in_lanes(devices, measure)
    assert devices[0].ended.is_set()


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("local", "local.json"),
        ("ssh://pi@host:2222", "ssh_pi@host_2222.json"),
        ("adb:../../etc/passwd", "adb_.._.._etc_passwd.json"),
        ("...", "device.json"),
    ],
)
def test_no_device_name_leaves_the_folder(tmp_path, device, name):
    assert result_path(tmp_path, device) == tmp_path / name


def test_an_emulated_device_shows_no_times(tmp_path, monkeypatch):
    import dataclasses

    bundle = fake_bundle(tmp_path)
    facts = Board.facts
    monkeypatch.setattr(
        Board, "facts", lambda self: dataclasses.replace(facts(self), emulated=True), raising=True
    )
    done = bench(bundle)
    assert "peak rss" in done.stdout
    assert "ttft" not in done.stdout
    assert "rate" not in done.stdout
    assert "an emulated device: its times are not shown" in done.stderr
    assert "Marked invalid" not in done.stderr  # a busy machine does not change its memory
    assert done.return_value == 0


def test_cores_that_are_no_list_are_refused(tmp_path):
    done = bench(fake_bundle(tmp_path), "--cores", "many")
    assert isinstance(done.exception, UsageError)
    assert "write numbers such as 0-3" in done.exception.message


def test_a_machine_that_counts_nothing_says_so_or_counts(tmp_path):
    done = bench(fake_bundle(tmp_path), "--count-instructions")
    if done.exception is not None:  # this machine's kernel or hypervisor has no counter
        assert isinstance(done.exception, DeviceError)
        assert "instructions" in str(done.exception) or "count" in str(done.exception)
    else:
        assert "instructions per decode token at 0" in done.stdout
        assert "ttft" not in done.stdout


def test_notes_and_reasons_are_said_without_what_a_terminal_would_obey(tmp_path, monkeypatch):
    class Hot(Board):
        def run(self, plan, on_sample=None):
            zone = {"evil\x1b[2J": {"celsius": 99.0, "limit": 80.0}}
            hot = [s | {"temperatures": zone} if s["kind"] == "sensors" else s for s in super().run(plan)]
            return [*hot, {"kind": "sustained end", "minutes": 7, "settled": False}]

    monkeypatch.setattr(runtimes.devices, "parse_device", Hot)
    said = bench(fake_bundle(tmp_path / "b"), "--device", "hot").stderr
    assert "Marked invalid: too hot: evil [2J at 99 °C, limit 80 °C" in said
    assert "Note: the sustained rate had not settled after 7 minutes" in said
    assert "\x1b" not in said
