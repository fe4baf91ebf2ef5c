"""Writing files so that a killed process leaves nothing half-written."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from toolkit.errors import EdgePLMError


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) beside `path` and rename it into place."""
    data = content.encode() if isinstance(content, str) else content
    with _named_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def refuse_to_overwrite(target: Path, force: bool) -> None:
    """Raise EdgePLMError if `target` exists and is not an empty folder, unless `force`."""
    if force or not target.exists():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    raise EdgePLMError(
        "already exists", where=str(target), mend="Choose another name, or add --force to replace it"
    )


@contextmanager
def staged_directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends without an error.

    Raises EdgePLMError if `target` exists and `force` is false; with `force` the old one goes only once
    the new one is complete.
    """
    # "." has no name to put the temporary folder beside; a link is replaced, not what it points to.
    target = Path(os.path.abspath(target))  # noqa: PTH100
    refuse_to_overwrite(target, force)
    with _named_in_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield staging
        os.chmod(staging, 0o777 & ~_umask())
        refuse_to_overwrite(target, force)  # it may have come into being meanwhile
        _replace_directory(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A path for a library to write to; it becomes `target` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making.") as folder:
        fresh = Path(folder) / target.name
        yield fresh
        os.replace(fresh, target)


def keep_newest(folder: Path, count: int) -> None:
    """Remove all of a cache's files and folders but the `count` newest; hidden ones are being written."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[count:]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def held(target: Path) -> Iterator[None]:
    """Keep `target` to this process until the block ends; EdgePLMError if another one has it.

    The lock is a hidden file beside `target`, free again however the process ends.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100
    path = target.parent / f".{target.name}.lock"
    with _named_in_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
    if lock is None:
        raise EdgePLMError(
            "another process is writing it", where=str(target), mend="Wait for it, or choose another name"
        )
    with lock:
        try:
            yield
        finally:
            # While it is still locked: whoever opened it before finds it locked, and gives up.
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[str] | None:
    """The file at `path`, locked; None if another process has it."""
    while True:
        lock = open(path, "w")  # noqa: SIM115 - the caller closes it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
            lock.close()  # another one's, which took it away meanwhile
        except BlockingIOError:
            lock.close()
            return None
        except FileNotFoundError:
            lock.close()


def _replace_directory(new: Path, target: Path) -> None:
    """Rename `new` to `target`; what was there is put back if that fails."""
    if not target.exists():
        os.replace(new, target)
        return
    retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    try:
        os.replace(target, retired / "old")
        try:
            os.replace(new, target)
        except BaseException:
            os.replace(retired / "old", target)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def _named_in_errors(target: Path) -> Iterator[None]:
    """Let the system's errors name `target`, not the temporary file beside it."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(target), None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
