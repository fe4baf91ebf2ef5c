"""Run folders: what is done is not done again, what was killed goes on, and nobody gets in another's way."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from toolkit.errors import EdgePLMError
from toolkit.runfolder import RunFolder

# A run of two stages in a process of its own. The second ends as the third argument says.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from toolkit.runfolder import RunFolder

def first(folder):
    (folder / "data").write_text("first")

def second(folder):
    (folder / "half").write_text("half")
    if sys.argv[2] == "exit":
        os._exit(9)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "wait":
        print("waiting", flush=True)
        sys.stdin.read()
    (folder / "half").rename(folder / "whole")

with RunFolder(Path(sys.argv[1])).open() as run:
    one = run.stage("first", {"seed": 0}, first)
    two = run.stage("second", {"first": one.key}, second)
    print(one.reused, two.reused)
"""


class StageError(Exception):
    """What a stage raises half way."""


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".") and path.is_dir())


class Counted:
    """A stage's work that counts how often it ran."""

    def __init__(self, text: str = "done") -> None:
        self.text = text
        self.runs = 0

    def __call__(self, folder: Path) -> None:
        self.runs += 1
        assert list(folder.iterdir()) == []
        (folder / "result").write_text(f"{self.text} {self.runs}")


def once(path: Path, work, inputs=None, **options):
    with RunFolder(path).open() as run:
        return run.stage("stage", inputs or {"seed": 0}, work, **options)


def error_of(path: Path) -> str:
    with pytest.raises(EdgePLMError) as raised, RunFolder(path).open():
        pytest.fail("it was opened")
    assert raised.value.where == str(path) and raised.value.mend
    return str(raised.value)


def program(path: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(path), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# Reuse


def test_a_stage_is_run_once(tmp_path):
    work = Counted()
    first, second = once(tmp_path / "run", work), once(tmp_path / "run", work)
    assert work.runs == 1
    assert (first.reused, second.reused) == (False, True)
    assert first.key == second.key
    assert second.folder == tmp_path / "run" / "stage"
    assert (second.folder / "result").read_text() == "done 1"


def test_a_stage_with_other_inputs_is_run_again_and_replaced_whole(tmp_path):
    def work(folder):
        (folder / "old").write_text("old")

    first = once(tmp_path / "run", work, {"seed": 0})
    second = once(tmp_path / "run", Counted(), {"seed": 1})
    assert not second.reused and first.key != second.key
    assert visible(second.folder) == ["result"]


@pytest.mark.parametrize(
    "other",
    [{"a": 1, "b": {"c": 3}}, {"a": 1}, {"a": 1, "b": {"c": "2"}}, {"a": 1, "b": {"c": 2}, "d": None}],
)
def test_every_input_counts(tmp_path, other):
    work = Counted()
    once(tmp_path / "run", work, {"a": 1, "b": {"c": 2}})
    once(tmp_path / "run", work, {"b": {"c": 2}, "a": 1})  # their order does not
    assert work.runs == 1
    assert not once(tmp_path / "run", work, other).reused


def test_two_stages_with_the_same_inputs_have_different_keys(tmp_path):
    with RunFolder(tmp_path / "run").open() as run:
        assert run.stage("one", {}, Counted()).key != run.stage("two", {}, Counted()).key


def test_another_version_of_edgeplm_runs_it_again(tmp_path, monkeypatch):
    work = Counted()
    once(tmp_path / "run", work)
    monkeypatch.setattr("toolkit.runfolder.__version__", "9.9.9")
    assert not once(tmp_path / "run", work).reused


def test_a_fresh_stage_is_run_in_any_case(tmp_path):
    work = Counted()
    once(tmp_path / "run", work)
    assert not once(tmp_path / "run", work, fresh=True).reused
    assert work.runs == 2


def test_a_stage_whose_folder_was_deleted_is_run_again(tmp_path):
    work = Counted()
    stage = once(tmp_path / "run", work)
    (stage.folder / "result").unlink()
    stage.folder.rmdir()
    assert not once(tmp_path / "run", work).reused


@pytest.mark.parametrize("marker", ["", "{", "[]", "{}", "null", '{"key": "another"}', "\ud800"])
def test_a_stage_with_a_damaged_marker_is_run_again(tmp_path, marker):
    work = Counted()
    once(tmp_path / "run", work)
    file = tmp_path / "run" / ".stages" / "stage.json"
    assert json.loads(file.read_text())["key"]
    file.write_bytes(marker.encode("utf-8", "surrogatepass"))
    assert not once(tmp_path / "run", work).reused
    assert once(tmp_path / "run", work).reused


# Failing and being killed


def test_a_stage_that_fails_leaves_nothing_and_is_run_again(tmp_path):
    def work(folder):
        (folder / "half").write_text("half")
        raise StageError

    with pytest.raises(StageError):
        once(tmp_path / "run", work)
    assert visible(tmp_path / "run") == ["run.json"]
    assert not once(tmp_path / "run", Counted()).reused


def test_a_changed_stage_that_fails_does_not_count_as_done_with_the_old_inputs(tmp_path):
    """The old folder is whole still, but its marker went first: better run once too often."""

    def work(folder):
        raise StageError

    once(tmp_path / "run", Counted("old"), {"seed": 0})
    with pytest.raises(StageError):
        once(tmp_path / "run", work, {"seed": 1})
    again = once(tmp_path / "run", Counted("again"), {"seed": 0})
    assert (again.folder / "result").read_text() == "again 1"


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path, how):
    folder = tmp_path / "run"
    killed = program(folder, how)
    assert killed.returncode == (9 if how == "exit" else -signal.SIGKILL), killed.stderr
    assert visible(folder) == ["first", "run.json"]
    assert leftovers(folder) != [".stages"]  # the half of the second stage is there, under another name

    done = program(folder, "finish")
    assert (done.stdout, done.stderr) == ("True False\n", "")
    assert visible(folder) == ["first", "run.json", "second"]
    assert visible(folder / "second") == ["whole"]
    assert leftovers(folder) == [".stages"]

    assert program(folder, "finish").stdout == "True True\n"


def test_a_run_that_was_killed_as_it_began(tmp_path):
    """Before its identity was written there is only the lock, and perhaps a temporary file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".run.json.x1y2z3").write_text('{"edge')
    assert not once(tmp_path / "run", Counted()).reused


def test_a_killed_replacement_does_not_count_as_done(tmp_path):
    """The new folder stands and its marker is not written yet."""
    work = Counted()
    once(tmp_path / "run", work)
    (tmp_path / "run" / ".stages" / "stage.json").unlink()
    assert not once(tmp_path / "run", work).reused
    assert visible(tmp_path / "run" / "stage") == ["result"]


# Others


def test_two_runs_on_one_folder_are_refused(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", PROGRAM, str(folder), "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "waiting\n"
            assert "another run is writing into it" in error_of(folder)
            refused = program(folder, "finish")
            assert refused.returncode == 1 and "another run is writing into it" in refused.stderr
            assert visible(folder) == ["first", "run.json"]  # and the other's half was not cleaned away
            assert leftovers(folder) != [".stages"]
            out, _ = other.communicate("")
        finally:
            other.kill()
    assert out == "False False\n"
    assert visible(folder / "second") == ["whole"]


def test_two_runs_of_one_process_are_refused_too(tmp_path):
    with RunFolder(tmp_path / "run").open():
        assert "another run" in error_of(tmp_path / "run")
    with RunFolder(tmp_path / "run").open():
        pass


def test_of_many_that_begin_at_once_one_gets_the_folder(tmp_path):
    said, begin, end = [], threading.Barrier(8), threading.Barrier(8)

    def attempt():
        begin.wait()
        try:
            with RunFolder(tmp_path / "run").open():
                said.append("opened")
                end.wait()
        except EdgePLMError as error:
            said.append(error.what)
            end.wait()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["another run is writing into it"] * 7 + ["opened"]


@pytest.mark.parametrize("entry", ["thesis.tex", ".git", ".locksmith.txt"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, entry):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / entry).mkdir() if entry == ".git" else (folder / entry).write_text("mine")
    assert "is not empty and no run folder" in error_of(folder)
    assert [path.name for path in folder.iterdir()] == [entry]


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    assert "is a file" in error_of(tmp_path / "run")


def test_an_empty_folder_and_a_new_one_become_run_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "new" / "er"):
        assert not once(path, Counted()).reused
        assert "edgeplm" in json.loads((path / "run.json").read_text())


def test_what_the_user_put_beside_the_stages_stays(tmp_path):
    once(tmp_path / "run", Counted())
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / ".notes").mkdir()
    once(tmp_path / "run", Counted(), {"seed": 1})
    assert {"notes.txt", ".notes"} <= set(os.listdir(tmp_path / "run"))
