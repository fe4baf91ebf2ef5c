"""Writing files and folders: whole or not at all, and never over something that nobody asked to replace."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from toolkit.errors import EdgePLMError
from toolkit.files import (
    keep_newest,
    refuse_to_overwrite,
    sha256_of,
    staged_directory,
    staged_file,
    write_atomic,
)


class WriterError(Exception):
    """What a writer raises half way."""


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def fail(*_args):
    raise OSError(28, "No space left on device")


def test_sha256_of(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# write_atomic


def test_write_atomic_writes_bytes_and_text_as_utf8(tmp_path):
    write_atomic(tmp_path / "deep" / "er" / "bytes", b"\x00\xff")
    write_atomic(tmp_path / "text", "näh\r\n")
    assert (tmp_path / "deep/er/bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").read_bytes() == "näh\r\n".encode()


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    write_atomic(tmp_path / "file", "old and long")
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_write_atomic_leaves_the_old_file_when_the_write_fails(tmp_path, monkeypatch, step):
    write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_write_atomic_of_text_that_is_no_unicode_leaves_the_old_file(tmp_path):
    write_atomic(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_write_atomic_does_not_put_a_file_in_a_folders_place(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "taken", "new")
    assert names(tmp_path) == ["taken"]


def test_write_atomic_gives_the_permissions_of_an_ordinary_file(tmp_path, umask):
    write_atomic(tmp_path / "file", "text")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


# refuse_to_overwrite


def test_refuse_to_overwrite_a_file_or_a_full_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for taken in ("file", "full"):
        with pytest.raises(EdgePLMError) as raised:
            refuse_to_overwrite(tmp_path / taken, force=False)
        assert raised.value.where == str(tmp_path / taken)
        assert raised.value.what == "already exists"
        assert raised.value.mend and "--force" in raised.value.mend
        refuse_to_overwrite(tmp_path / taken, force=True)


def test_refuse_to_overwrite_lets_new_names_and_empty_folders_pass(tmp_path):
    (tmp_path / "empty").mkdir()
    refuse_to_overwrite(tmp_path / "empty", force=False)
    refuse_to_overwrite(tmp_path / "new", force=False)


# staged_directory


def test_staged_directory_appears_whole_when_the_block_ends(tmp_path, umask):
    target = tmp_path / "deep" / "result"
    with staged_directory(target) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "file").write_text("new")
        assert not target.exists()
        assert staging.parent == target.parent  # the same file system, so that the rename is one step
    assert (target / "sub" / "file").read_text() == "new"
    assert names(target.parent) == ["result"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o750


def test_staged_directory_takes_the_place_of_an_empty_folder(tmp_path):
    (tmp_path / "result").mkdir()
    with staged_directory(tmp_path / "result") as staging:
        (staging / "file").write_text("new")
    assert names(tmp_path) == ["result"] and names(tmp_path / "result") == ["file"]


@pytest.mark.parametrize("error", [WriterError, KeyboardInterrupt])
def test_staged_directory_leaves_nothing_when_the_block_fails(tmp_path, error):
    with pytest.raises(error), staged_directory(tmp_path / "result") as staging:
        (staging / "half").write_text("half")
        raise error
    assert names(tmp_path) == []


def full(target: Path) -> Path:
    target.mkdir()
    (target / "old").write_text("old")
    return target


def test_staged_directory_refuses_to_overwrite_before_any_work(tmp_path):
    target = full(tmp_path / "result")
    with pytest.raises(EdgePLMError, match="already exists"), staged_directory(target):
        pytest.fail("the block ran")
    assert names(tmp_path) == ["result"] and names(target) == ["old"]


def test_staged_directory_refuses_to_overwrite_what_came_meanwhile(tmp_path):
    with pytest.raises(EdgePLMError, match="already exists"), staged_directory(tmp_path / "result"):
        full(tmp_path / "result")
    assert names(tmp_path) == ["result"] and names(tmp_path / "result") == ["old"]


def test_staged_directory_with_force_replaces_the_old_folder_whole(tmp_path):
    target = full(tmp_path / "result")
    with staged_directory(target, force=True) as staging:
        (staging / "new").write_text("new")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["result"]


def test_staged_directory_with_force_replaces_a_file(tmp_path):
    (tmp_path / "result").write_text("old")
    with staged_directory(tmp_path / "result", force=True) as staging:
        (staging / "new").write_text("new")
    assert names(tmp_path / "result") == ["new"]
    assert names(tmp_path) == ["result"]


def test_staged_directory_with_force_keeps_the_old_folder_when_the_block_fails(tmp_path):
    target = full(tmp_path / "result")
    with pytest.raises(WriterError), staged_directory(target, force=True) as staging:
        (staging / "new").write_text("half")
        raise WriterError
    assert names(target) == ["old"]
    assert names(tmp_path) == ["result"]


def test_staged_directory_puts_the_old_folder_back_when_the_rename_fails(tmp_path, monkeypatch):
    target = full(tmp_path / "result")
    rename = os.replace

    def fail_on_the_new_one(source, destination):
        if Path(destination) == target and not (Path(source) / "old").exists():
            fail()
        rename(source, destination)

    monkeypatch.setattr(os, "replace", fail_on_the_new_one)
    with pytest.raises(OSError, match="No space left"), staged_directory(target, force=True) as staging:
        (staging / "new").write_text("new")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["result"]


def test_staged_directory_for_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with staged_directory(Path()) as staging:
        (staging / "file").write_text("new")
    assert names(tmp_path / "here") == ["file"]
    assert names(tmp_path) == ["here"]


def test_a_staged_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "weights.bin"
    with staged_file(target) as fresh:
        fresh.write_bytes(b"one")
        assert not target.exists()
    with pytest.raises(RuntimeError), staged_file(target) as fresh:
        fresh.write_bytes(b"two")
        raise RuntimeError("stopped")
    assert target.read_bytes() == b"one"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_the_newest_of_a_cache_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "folder", "old", "oldest")):
        path = tmp_path / name
        path.mkdir() if name == "folder" else path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / ".making.x").mkdir()
    keep_newest(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "folder", ".making.x"}
