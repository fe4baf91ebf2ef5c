import hashlib
import os
import random
import threading
import time
from pathlib import Path

import pytest
from adb_device import FakePhone
from adb_server import AdbServer, free_port, running

from runtimes.devices.adb import AdbDevice, AdbShell, list_adb_devices
from runtimes.devices.adb_client import adb_program
from toolkit.errors import DeviceError

SOME = random.Random(1).randbytes(50_000_000)


def shell_of(phone):
    return AdbShell(f"adb:{phone.serial}")


def fault_of(shell, script="echo hello", *arguments, **options):
    with pytest.raises(DeviceError) as caught:
        shell.run(script, *arguments, step="look", **options)
    return str(caught.value)


def test_a_script_has_its_arguments_streams_and_status(phone):
    done = shell_of(phone).run(
        'printf "%s|" "$@"; echo "to stderr" >&2; exit 7', "a b", "$(reboot); 'x'", "", step="look"
    )
    assert (done.status, done.text, done.stderr) == (7, "a b|$(reboot); 'x'||", "to stderr")


def test_fifty_megabytes_come_and_go_unchanged(phone, tmp_path):
    path = tmp_path / "some"
    path.write_bytes(SOME)
    shell = shell_of(phone)
    with path.open("rb") as file:
        done = shell.run('cat > "$1"; exit 3', "/data/local/tmp/copy", step="push", stdin=file)
    assert done.status == 3
    assert phone.path("/data/local/tmp/copy").read_bytes() == SOME
    done = shell.run('cat "$1"; exit 4', "/data/local/tmp/copy", step="pull")
    assert done.status == 4
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(SOME).digest()


def test_every_byte_passes_a_pipe_unchanged(phone):
    every = bytes(range(256)) * 3 + b"\r\n\n\r\x04\x1a~."
    assert shell_of(phone).run("cat", step="look", stdin=every).stdout == every


def test_the_client_pushes_and_pulls_files_as_with_a_real_phone(adb, phone, tmp_path):
    (tmp_path / "here/below").mkdir(parents=True)
    (tmp_path / "here/below/some").write_bytes(SOME[:3_000_000])
    (tmp_path / "here/empty").touch()
    target = ["-s", phone.serial]
    assert "2 files pushed" in adb.client(*target, "push", str(tmp_path / "here"), "/data/local/tmp/new")
    assert phone.path("/data/local/tmp/new/below/some").read_bytes() == SOME[:3_000_000]
    assert "2 files pulled" in adb.client(*target, "pull", "/data/local/tmp/new", str(tmp_path / "back"))
    assert (tmp_path / "back/below/some").read_bytes() == SOME[:3_000_000]
    assert (tmp_path / "back/empty").read_bytes() == b""
    assert "No such file" in adb.client(*target, "pull", "/data/local/tmp/none", str(tmp_path / "none"))


def test_devices_are_listed_with_their_state(adb, phone, tmp_path):
    waiting = FakePhone(tmp_path / "waiting")
    waiting.state = "unauthorized"
    adb.client("connect", waiting.serial)
    assert sorted(list_adb_devices(), key=lambda each: each.state) == [
        AdbDevice(phone.serial, "device", "Fake Phone 9"),
        AdbDevice(waiting.serial, "unauthorized", None),
    ]
    waiting.close()


def test_no_serial_means_the_only_device(phone):
    shell = AdbShell("adb:")
    assert shell.run("echo hello", step="look").text == "hello\n"
    assert shell.name == f"adb:{phone.serial}"
    assert shell.serial == phone.serial


def test_no_serial_and_two_devices_is_an_error_that_lists_them(adb, phone, tmp_path):
    second = FakePhone(tmp_path / "second")
    adb.client("connect", second.serial)
    said = fault_of(AdbShell("adb:"))
    assert said.startswith("device adb:, step connect: 2 devices are connected. Name one of them: ")
    assert f"adb:{phone.serial} (device)" in said
    assert f"adb:{second.serial} (device)" in said
    second.close()


def test_no_device_at_all(adb):
    assert "adb lists no device. Plug it in with a data cable" in fault_of(AdbShell("adb:"))


@pytest.mark.parametrize("serial", ["R5CT", "127.0.0.1:1", "$(reboot)", "--help", "-s"])
def test_a_serial_that_is_not_listed_is_never_passed_on(phone, serial):
    said = fault_of(AdbShell(f"adb:{serial}"))
    assert f"device adb:{serial}, step connect: not connected; adb lists adb:{phone.serial} (device)" in said
    assert ("Connect it: adb connect 127.0.0.1:1" in said) == (serial == "127.0.0.1:1")
    assert phone.commands == []


@pytest.mark.parametrize("name", ["adb:a b", "adb:a\nb", "adb:\x1b[2J", "ssh://pi"])
def test_a_name_that_is_no_serial(name):
    with pytest.raises(DeviceError, match=r"not a device of adb\. Write adb:SERIAL"):
        AdbShell(name)


def test_an_unauthorised_phone(adb, tmp_path):
    phone = FakePhone(tmp_path / "phone")
    phone.state = "unauthorized"
    adb.client("connect", phone.serial)
    said = fault_of(shell_of(phone))
    assert f"device adb:{phone.serial}, step connect: the phone has not allowed this computer" in said
    assert "accept 'Allow USB debugging?'" in said
    phone.close()


def test_a_phone_that_does_not_answer_is_offline(adb, phone, monkeypatch):
    monkeypatch.setattr("runtimes.devices.adb._PASSING_SECONDS", 0.5)
    phone.state = "offline"
    phone.unplug()
    wait_for(lambda: list_adb_devices()[0].state == "offline")
    assert "it does not answer adb (offline). Plug it in again" in fault_of(shell_of(phone))


def test_a_phone_that_is_just_coming_back_is_waited_for(phone):
    phone.unplug()
    assert shell_of(phone).run("echo hello", step="look").text == "hello\n"


def test_an_android_before_7_is_refused(adb, tmp_path):
    phone = FakePhone(tmp_path / "phone", features=("cmd",))
    adb.client("connect", phone.serial)
    assert "its Android is older than 7" in fault_of(shell_of(phone))
    assert phone.commands == []
    phone.close()


def test_unplugged_while_it_sends(phone):
    shell = shell_of(phone)
    shell.connect()
    phone.cut_output = 100_000
    said = fault_of(shell, "head -c 1000000 /dev/zero")
    assert f"device adb:{phone.serial}, step look: the connection was cut" in said


def test_unplugged_while_it_is_sent_to(phone):
    shell = shell_of(phone)
    shell.connect()
    phone.cut_input = 3_000_000
    said = fault_of(shell, 'cat > "$1"', "/data/local/tmp/part", stdin=SOME)
    assert "step look: the connection was cut" in said
    assert phone.path("/data/local/tmp/part").stat().st_size < 4_000_000
    assert shell_of(phone).run("echo hello", step="look").text == "hello\n"


def test_bytes_that_are_no_packets(phone):
    shell = shell_of(phone)
    shell.connect()
    phone.garbage = True
    assert "step look: the connection was cut" in fault_of(shell)


def test_adbd_is_killed_in_mid_command_and_comes_back(phone):
    shell = shell_of(phone)
    shell.connect()
    with ending(lambda: phone.commands, phone.die):
        assert "step look: the connection was cut, and now it does not answer" in fault_of(shell, "sleep 60")
    phone.revive()
    wait_for(lambda: list_adb_devices()[0].state == "device")
    assert shell.run("echo hello", step="look").text == "hello\n"


def test_a_device_that_is_taken_away_in_mid_command(adb, phone):
    shell = shell_of(phone)
    shell.connect()
    with ending(lambda: phone.commands, lambda: adb.client("disconnect", phone.serial)):
        said = fault_of(shell, "sleep 60")
    assert "the connection was cut: unplugged, or adb ended on the phone. Connect it: adb connect" in said
    assert "not connected any more" in fault_of(shell)


def test_a_server_that_is_ended_in_mid_command(tmp_path, monkeypatch):
    with running(tmp_path) as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        phone = FakePhone(tmp_path / "phone")
        server.client("connect", phone.serial)
        shell = shell_of(phone)
        shell.connect()
        with ending(lambda: phone.commands, server.stop):
            assert "step look: adb's server was ended in mid-command" in fault_of(shell, "sleep 60")
        server.client("kill-server")  # the one that the look after the fault has started
        phone.close()


def test_the_server_is_started_by_the_client_as_usual(tmp_path, monkeypatch):
    server = AdbServer(tmp_path)
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    try:
        assert list_adb_devices() == []
    finally:
        server.client("kill-server")


def test_a_server_elsewhere_that_does_not_answer(monkeypatch):
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT", raising=False)
    # By its number: where it says "localhost" the client would start one there.
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:127.0.0.1:{free_port()}")
    with pytest.raises(DeviceError, match="adb's server cannot be reached"):
        list_adb_devices()


def test_a_variable_that_names_no_server(monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "abc")
    with pytest.raises(DeviceError, match="ANDROID_ADB_SERVER_PORT must be a positive number"):
        list_adb_devices()


def test_a_command_that_hangs_ends_at_its_timeout(phone):
    assert "no end within 1 s" in fault_of(shell_of(phone), "sleep 60", timeout=1)


def test_a_slow_phone_is_no_fault(phone):
    phone.slow = 0.05
    assert shell_of(phone).run("cat", step="look", stdin=b"x" * 100_000).stdout == b"x" * 100_000


def test_what_runs_on_the_phone_ends_with_the_client(phone):
    running_there = shell_of(phone).start('echo $$; exec cat > "$1"', "/data/local/tmp/got")
    there = int(running_there.stdout.readline())
    assert Path(f"/proc/{there}").exists()
    running_there.kill()
    running_there.communicate()
    wait_for(lambda: not Path(f"/proc/{there}").exists())


def test_adb_is_found_on_path_in_the_sdk_and_in_the_package(tmp_path, monkeypatch):
    def program(folder):
        folder.mkdir(parents=True)
        path = folder / "adb"
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    on_path, in_sdk = program(tmp_path / "bin"), program(tmp_path / "sdk/platform-tools")
    in_package = program(tmp_path / "site/adbutils/binaries")
    (tmp_path / "site/adbutils/__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    assert adb_program() == on_path
    monkeypatch.setenv("PATH", str(tmp_path))
    assert adb_program() == in_sdk
    monkeypatch.delenv("ANDROID_HOME")
    assert adb_program() == in_package
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"adb was not found.*apt install adb.*pip install adbutils"):
        list_adb_devices()


STATES = """List of devices attached
0123456789ABCDEF       no permissions (user in plugdev group; wrong udev rules?); see [http://x] usb:1-2
(no serial number)     device usb:1-3 product:a model:A_B device:c transport_id:4
R5CT123                recovery usb:1-4 product:a model:Pixel_9 device:c transport_id:5
emulator-5554          unknown_to_us transport_id:6
twins                  device transport_id:7
twins                  device transport_id:8

"""


@pytest.fixture
def listing(tmp_path, monkeypatch):
    """An adb that lists what no emulated phone can be: states of USB."""
    path = tmp_path / "adb"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{STATES}END\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_the_states_of_usb_devices_are_read(listing):
    assert list_adb_devices() == [
        AdbDevice("0123456789ABCDEF", "no permissions", None),
        AdbDevice("(no serial number)", "device", "A B"),
        AdbDevice("R5CT123", "recovery", "Pixel 9"),
        AdbDevice("emulator-5554", "unknown_to_us", None),
        AdbDevice("twins", "device", None),
        AdbDevice("twins", "device", None),
    ]


@pytest.mark.parametrize(
    ("serial", "says"),
    [
        (
            "0123456789ABCDEF",
            "may not open the phone's USB port (no permissions). Install your system's udev",
        ),
        ("R5CT123", "it is in recovery, where nothing can be measured. Start Android: adb reboot"),
        ("emulator-5554", "it is in the state 'unknown_to_us'"),
        ("twins", "2 devices have this serial. Unplug all but one of them"),
    ],
)
def test_the_states_of_usb_devices_are_explained(listing, serial, says):
    assert says in fault_of(AdbShell(f"adb:{serial}"))


def test_two_versions_of_adb_are_named():
    what, mend = AdbShell("adb:x").explain(
        1, "adb server version (39) doesn't match this client (41); killing...\n* failed to start daemon"
    )
    assert "two versions of adb" in what
    assert "which -a adb" in mend


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


class ending:  # noqa: N801 - reads as a phrase where it is used
    """Runs `action` beside the block as soon as `condition` holds."""

    def __init__(self, condition, action):
        self._thread = threading.Thread(target=lambda: (wait_for(condition), time.sleep(0.3), action()))

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *fault):
        self._thread.join()
