import json
import os
import shutil
import subprocess

import pytest
from provision_kit import HERE, NAME, Board, use_toy, wheel
from userlands import USERLANDS, userland

from runtimes.provision.archive import ARCHIVE


@pytest.fixture
def board(tmp_path, monkeypatch):
    wheel(tmp_path / "wheels")
    use_toy(monkeypatch, tmp_path / "wheels")
    return Board(tmp_path / "board")


def run(board, *arguments, **options):
    command = ["sh", str(board.environment / "python"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_bare_device_gets_an_environment_that_runs(board):
    report = board.prepare()
    (made,) = report.environments
    assert report.device == "ssh://pi@board"
    assert made.versions == {"toyruntime": "1.0"}
    assert made.python.startswith(HERE)
    assert (made.was_there, made.self_contained, made.repaired) == (False, False, None)
    assert made.pushed_bytes > 0
    done = run(board, "-c", "import toyruntime, toydata; print(toyruntime.VALUE, toydata.PLACE)")
    assert done.stdout == "42 root\n", done.stderr
    assert os.readlink(board.environment) == made.key
    assert json.loads(json.dumps(report.as_dict()))["nothing_to_do"] is False


def test_what_running_never_reads_stays_here(board):
    board.prepare()
    site = board.environment / "site"
    assert not list(site.rglob("test*"))
    about = site / "toyruntime-1.0.dist-info"
    assert [path.name for path in about.iterdir()] == ["METADATA"]


def test_nothing_is_left_but_the_environment(board):
    board.prepare()
    assert board.names("environments") == {NAME, os.readlink(board.environment)}
    assert board.names("incoming") == set()
    assert board.names("objects") == set()


def test_a_second_time_nothing_is_fetched_built_or_pushed(board, monkeypatch):
    board.prepare()
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    for path in board.cache.rglob(ARCHIVE):
        path.unlink()
    report = board.prepare()
    assert report.nothing_to_do
    assert report.environments[0].pushed_bytes == 0
    assert report.environments[0].versions == {"toyruntime": "1.0"}


def test_a_second_device_needs_no_second_fetch(board, monkeypatch, tmp_path):
    board.prepare()
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    report = Board(tmp_path / "second").prepare()
    assert report.environments[0].pushed_bytes > 0


def test_the_same_inputs_make_the_same_bytes(board, tmp_path):
    first = board.prepare()
    other = Board(tmp_path / "other")
    other.cache = tmp_path / "other-cache"
    second = other.prepare()
    archives = [next(cache.rglob(ARCHIVE)).read_bytes() for cache in (board.cache, other.cache)]
    assert archives[0] == archives[1]
    assert first.environments[0].key == second.environments[0].key


def test_a_new_version_takes_the_name_and_the_old_one_goes(board, monkeypatch, tmp_path):
    old = board.prepare().environments[0].key
    wheel(tmp_path / "wheels", "2.0", toyruntime="VALUE = 43\n")
    use_toy(monkeypatch, tmp_path / "wheels", "2.0")
    report = board.prepare()
    assert report.environments[0].versions == {"toyruntime": "2.0"}
    assert run(board, "-c", "import toyruntime; print(toyruntime.VALUE)").stdout == "43\n"
    assert board.names("environments") == {NAME, report.environments[0].key}
    assert report.environments[0].key != old


@pytest.mark.parametrize("damage", ["altered", "shorter", "missing", "no python", "babble", "no list"])
def test_a_damaged_environment_is_found_and_made_anew(board, damage):
    key = board.prepare().environments[0].key
    module = board.environment / "site/toyruntime.py"
    match damage:
        case "altered":
            module.write_text("VALUE = 99\n")
        case "shorter":
            module.write_text("")
        case "missing":
            module.unlink()
        case "no python":
            (board.environment / "python").write_text("exit 1\n")
        case "babble":
            (board.environment / "python").write_text("echo edgeplm:check=[1]\n")
        case "no list":
            (board.environment / "environment.json").write_text("{")
    report = board.prepare()
    assert report.environments[0].repaired
    assert report.environments[0].key == key
    assert run(board, "-c", "import toyruntime; print(toyruntime.VALUE)").stdout == "42\n"
    assert board.names("incoming") == set()
    assert board.prepare().nothing_to_do


def test_the_launcher_works_from_anywhere_and_keeps_arguments(board, tmp_path):
    board.prepare()
    program = "import sys, toyruntime; print(sys.argv[1:])"
    words = ["-c", program, "a b", "$(c)", ""]
    assert run(board, *words, cwd=tmp_path).stdout == "['a b', '$(c)', '']\n"
    done = subprocess.run(
        ["sh", "python", *words], cwd=board.environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "['a b', '$(c)', '']\n"


def test_modules_of_the_folder_it_is_started_in_are_not_taken(board, tmp_path):
    board.prepare()
    (tmp_path / "toyruntime.py").write_text("VALUE = 'an intruder'\n")
    done = run(board, "-c", "import toyruntime; print(toyruntime.VALUE)", cwd=tmp_path)
    assert done.stdout == "42\n"


def test_a_python_of_another_version_gets_wheels_for_that_one(board, monkeypatch):
    """The device's python3 does not fit, one of another name does."""
    board.tool("python3", "echo '3.9 glibc 2.36'")
    report = board.prepare()
    assert report.environments[0].python.startswith(HERE)
    board.tool("python3", "exit 1")
    assert run(board, "-c", "import toyruntime").returncode == 0


@pytest.mark.parametrize("kind", USERLANDS)
def test_the_tools_of_small_systems_are_enough(board, tmp_path, kind):
    """Debian's, busybox's and Android's programs (toybox and mksh), and nothing else in PATH."""
    tools = tmp_path / "tools"
    there = userland(tools, kind)
    multicall = {"busybox": "busybox", "android": "toybox"}.get(kind)
    for name in ("tar", "gzip", "sync"):
        # Debian builds its toybox without gzip; Android's has it.
        alone = name == "gzip" and kind == "android"
        (tools / name).symlink_to(shutil.which(name if alone else multicall or name))
    board.shell.path = ()
    board.shell.variables["PATH"] = f"{board.bin}:{there.programs}"
    made = board.prepare().environments[0]
    assert made.versions == {"toyruntime": "1.0"}
    (board.environment / "site/toyruntime.py").write_text("")
    assert board.prepare().environments[0].repaired
    assert board.prepare().nothing_to_do
    assert board.names("incoming") == board.names("objects") == set()
