import platform
import shutil

import pytest
from provision_kit import Board, use_toy, wheel

from runtimes.provision import pins
from toolkit.errors import DeviceError


@pytest.fixture
def board(tmp_path, monkeypatch):
    wheel(tmp_path / "wheels")
    use_toy(monkeypatch, tmp_path / "wheels")
    return Board(tmp_path / "board")


def refusal(board, *runtimes, **options):
    with pytest.raises(DeviceError) as caught:
        board.prepare(*runtimes, **options)
    return str(caught.value)


def uname(board, system, machine):
    board.tool("uname", f"case $1 in -s) echo {system};; -m) echo {machine};; esac")


def test_an_unknown_runtime_is_refused_before_the_device_is_asked(board):
    assert "Known: onnxruntime-genai, executorch" in refusal(board, "tflite")
    assert board.shell.lines == []


@pytest.mark.parametrize(
    ("machine", "mend"),
    [
        ("armv7l", "install the 64-bit system"),
        ("i686", "64-bit system"),
        ("riscv64", "another device"),
        ("", "another"),
    ],
)
def test_a_processor_without_wheels_is_refused(board, machine, mend):
    uname(board, "Linux", machine)
    message = refusal(board)
    assert message.startswith("device ssh://pi@board, step look at the device: its processor")
    assert mend in message
    assert not board.root.exists()


def test_another_system_than_linux_is_refused(board):
    uname(board, "Darwin", "arm64")
    assert "it runs Darwin" in refusal(board)


def test_a_missing_tool_is_named(board, tmp_path):
    board.shell.variables["PATH"] = str(board.bin)
    for tool in ("sh", "uname", "head", "gzip"):
        board.tool(tool, f'exec {shutil.which(tool)} "$@"')
    assert "it has no tar" in refusal(board)


def test_too_little_space_is_found_before_anything_is_pushed(board):
    board.tool("df", "echo Filesystem; echo '/dev/root 100 99 1 99% /'")
    message = refusal(board)
    assert "step space" in message
    assert "0.0 MB are free" in message
    assert board.names("objects") == board.names("environments") == set()


def test_a_wheel_that_is_not_there_is_named(board, monkeypatch, tmp_path):
    use_toy(monkeypatch, tmp_path / "wheels", "3.0")
    message = refusal(board)
    assert message.startswith("package toyruntime==3.0: pip could not fetch its wheel for Python")
    assert not list(board.cache.glob("[!.]*"))


def test_a_wheel_for_another_processor_is_not_taken(board, monkeypatch, tmp_path):
    wheel(tmp_path / "wheels", "4.0", f"py3-none-manylinux_2_28_{platform.machine()[::-1]}")
    use_toy(monkeypatch, tmp_path / "wheels", "4.0")
    assert "package toyruntime==4.0" in refusal(board)


def test_a_wheel_that_leaves_its_folder_is_refused(board, monkeypatch, tmp_path):
    wheel(tmp_path / "wheels", "5.0", **{"../intruder": "VALUE = 1\n"})
    use_toy(monkeypatch, tmp_path / "wheels", "5.0")
    assert "../intruder.py: a wheel with a path that leaves its folder" in refusal(board)
    assert not list(tmp_path.rglob("intruder.py"))


HALF_AND_CUT = 'mkdir -p "$4/site"; echo half >"$4/site/toyruntime.py"; kill $PPID'
NOTHING_AND_SUCCESS = "cat >/dev/null"


@pytest.mark.parametrize("tar", ["exit 1", HALF_AND_CUT, NOTHING_AND_SUCCESS])
def test_what_was_unpacked_by_half_is_never_an_environment(board, tar):
    board.tool("tar", tar)
    assert "device ssh://pi@board, step unpack onnxruntime-genai: " in refusal(board)
    assert board.names("environments") == set()
    (board.bin / "tar").unlink()
    assert board.prepare().environments[0].versions == {"toyruntime": "1.0"}
    assert board.names("incoming") == set()


def test_one_that_does_not_start_leaves_the_one_before_it(board, monkeypatch, tmp_path):
    board.prepare()
    wheel(tmp_path / "wheels", "6.0", toyruntime="raise RuntimeError('Illegal instruction')\n")
    use_toy(monkeypatch, tmp_path / "wheels", "6.0")
    message = refusal(board)
    assert "step check onnxruntime-genai" in message
    assert "import toyruntime: RuntimeError: Illegal instruction" in message
    assert "VALUE = 42" in (board.environment / "site/toyruntime.py").read_text()
    assert board.names("incoming") == set()


def test_a_damaged_archive_is_refused_on_the_device(board, tmp_path):
    board.tool("sha256sum", "echo 0000 -")
    assert "push" in refusal(board)
    assert board.names("environments") == set()


def test_python_for_android_is_not_for_executorch(board):
    board.tool("getprop", "echo 14")
    message = refusal(board, "executorch")
    assert "ExecuTorch's Python is not for Android" in message
    assert "docs/android.md" in message


def test_without_a_fitting_python_and_without_debian_it_says_what_to_do(board, monkeypatch):
    board.tool("python3", "echo '3.9 glibc 2.31'")
    for version in pins.PYTHONS:
        board.tool(f"python{version}", "exit 127")
    monkeypatch.setattr(
        platform, "freedesktop_os_release", lambda: {"ID": "fedora", "PRETTY_NAME": "Fedora 43"}
    )
    message = refusal(board)
    assert message.startswith("system Fedora 43: the device needs a Python of its own")
    assert "--python-folder" in message


def test_a_python_folder_of_another_kind_is_refused(board, tmp_path):
    board.tool("getprop", "echo 14")
    folder = tmp_path / "given"
    (folder / "bin").mkdir(parents=True)
    assert f"Python folder {folder}: it needs one of" in refusal(board, python_folder=folder)
    machine = pins.MACHINES[platform.machine()]
    (folder / "lib").mkdir()
    (folder / "lib" / machine.loader).touch()
    (folder / "bin/python3.11").write_text("#!/bin/sh\n")
    assert f"its Python is not for {machine.name}" in refusal(board, python_folder=folder)
    assert not board.root.exists()
