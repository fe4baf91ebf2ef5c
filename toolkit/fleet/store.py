"""Where a fleet's adapters are kept: a folder, or any URL that fsspec reaches (s3://, gs://, abfs://).

    OUT/fleet.json                      what the adapters were trained with
    OUT/result.json                     counts, throughput, failures
    OUT/weights.safetensors             the base as it is quantised, with quantisation-aware training
    OUT/people/KEY/...                  a person's folder, as `toolkit.finetune.finetune` writes it
    OUT/people/KEY/done-DIGEST.json     written last: the folder is whole, and of which profile it is

The mark's name says all that going on needs, so that a million people are one listing.
"""

import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from toolkit.errors import EdgePLMError
from toolkit.files import write_atomic
from toolkit.fleet.remote import Remote, StoreError

WEIGHTS = "weights.safetensors"  # the quantised base that all are trained on, if it is
RESULT = "result.json"
_SETTINGS = "fleet.json"
_PEOPLE = "people"
_LOCK = ".lock"
_DRIVER = "driver.json"
BEAT = 20.0  # seconds between a driver's signs of life where there are no file locks
SILENT_FOR = 90.0  # seconds after which a driver without one counts as dead
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # stores of objects, without folders


class Store:
    """The output of a fleet; every method may be called by driver and workers alike."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        # It would stand in the result and in errors.
        if re.search("://[^/]*:[^/]*@", url):
            raise EdgePLMError(
                "an address with a password in it",
                where="--out",
                mend="Give credentials in the environment, or in the fsspec package's own configuration",
            )
        self.url = url
        try:
            fs, self._root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise EdgePLMError(
                f"cannot be opened ({error})",
                where=url,
                mend="Give a folder, or a URL whose fsspec package is installed (s3fs for s3://)",
            ) from error
        protocols = _protocols(fs)
        self._local = Path(self._root) if "file" in protocols else None
        self._fs: Any = fs if self._local else Remote(fs, url)
        # Where there are no folders, making one would make a bucket that is not there: a misspelled one, say.
        self._has_folders = not _BUCKETS.intersection(protocols)

    def read_settings(self) -> dict[str, Any] | None:
        """What the fleet was started with; None where there is none."""
        return self._read(_SETTINGS)

    def has_settings(self) -> bool:
        """Whether a fleet was started here, even if its settings are damaged."""
        return self.has(_SETTINGS)

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Say what the adapters are trained with."""
        self.write(_SETTINGS, settings)

    def is_empty(self) -> bool:
        """Whether nothing is there but our own lock."""
        if not self._fs.exists(self._root):
            return True
        names = {name.rstrip("/").rpartition("/")[2] for name in self._fs.ls(self._root, detail=False)}
        return names <= {_LOCK, _DRIVER}

    def clear(self) -> None:
        """Take away everybody's adapters, and all that belongs to the training that they come from."""
        for name in (_PEOPLE, WEIGHTS, RESULT, _SETTINGS):  # what says that they are a fleet's goes last
            path = self._path(name)
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)

    def done(self) -> set[tuple[str, str]]:
        """(key, digest) of everybody whose folder is whole, by one listing."""
        root = self._path(_PEOPLE)
        if not self._fs.exists(root):
            return set()
        found = set()
        for path in self._fs.find(root):
            key, _, name = path.removeprefix(root).strip("/").partition("/")
            if name.startswith("done-") and name.endswith(".json") and not key.startswith("."):
                found.add((key, name.removeprefix("done-").removesuffix(".json")))
        return found

    def put(self, key: str, digest: str, folder: Path, mark: dict[str, Any]) -> None:
        """Keep `folder` as the person's, whole or not at all; one that was there is replaced."""
        name = f"done-{digest}.json"
        if self._local:
            target = self._local / _PEOPLE / key
            fresh = target.with_name(f".{key}.{secrets.token_hex(4)}")
            try:
                shutil.copytree(folder, fresh)
                write_atomic(fresh / name, json.dumps(mark, indent=1) + "\n")
                _to_disk(fresh)
                if target.exists():
                    shutil.rmtree(target)
                os.replace(fresh, target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            return
        target_path = self._path(_PEOPLE, key)
        if self._fs.exists(target_path):
            self._fs.rm(target_path, recursive=True)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                remote = f"{target_path}/{file.relative_to(folder).as_posix()}"
                self._make_folder_of(remote)
                self._fs.put_file(str(file), remote)
        self.write(f"{_PEOPLE}/{key}/{name}", mark)

    def fetch(self, key: str, folder: Path) -> Path:
        """A person's folder on this machine: where it is, or a copy below `folder`."""
        if self._local:
            return self._local / _PEOPLE / key
        source, target = self._path(_PEOPLE, key), folder / key
        for path in self._fs.find(source):
            file = target / path.removeprefix(source).strip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(path, str(file))
        return target

    def mark(self, key: str, digest: str) -> dict[str, Any]:
        """What was written when the person was done."""
        return self._read(f"{_PEOPLE}/{key}/done-{digest}.json") or {}

    def write(self, name: str, content: dict[str, Any]) -> None:
        """A JSON file of the output."""
        text = json.dumps(content, indent=1) + "\n"
        if self._local:
            write_atomic(self._local / name, text)
            return
        path = self._path(name)
        self._make_folder_of(path)
        self._fs.pipe_file(path, text.encode())

    def has(self, name: str) -> bool:
        """Whether the output has this file."""
        return bool(self._fs.exists(self._path(name)))

    def put_file(self, name: str, file: Path) -> None:
        """Keep one file that all workers need."""
        fresh = f"{name}.{secrets.token_hex(4)}"
        self._make_folder_of(self._path(fresh))
        self._fs.put_file(str(file), self._path(fresh))
        self._fs.mv(self._path(fresh), self._path(name))

    def get_file(self, name: str, folder: Path) -> Path:
        """That file on this machine: where it is, or a copy in `folder`."""
        if self._local:
            return self._local / name
        self._fs.get_file(self._path(name), str(folder / name))
        return folder / name

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the output for this driver; EdgePLMError if another has it."""
        if self._local:
            with _locked(self._local):
                yield
            return
        with self._beating():
            yield

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Object stores have no locks: the driver's file says when it was last alive."""
        own, stop = secrets.token_hex(8), Event()

        def sign() -> dict[str, Any]:
            return {"driver": own, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}

        def beat_on() -> None:
            while not stop.wait(BEAT):
                with suppress(StoreError):  # the workers' own writing says whether the fleet can go on
                    self.write(_DRIVER, sign())

        other = self._read(_DRIVER)
        if other and time.time() - float(other.get("time", 0)) < SILENT_FOR:
            raise _taken(self.url, f" (process {other.get('pid')} on {other.get('host')})", SILENT_FOR)
        if other or not self._create(_DRIVER, sign()):
            self.write(_DRIVER, sign())
        # Of two that begin at once where nothing is created exclusively, the later one's file stays.
        time.sleep(0.2)
        if (self._read(_DRIVER) or {}).get("driver") != own:
            raise _taken(self.url, "", SILENT_FOR)
        thread = Thread(target=beat_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(StoreError):  # it is forgotten without that; what else went wrong is to be heard
                if (self._read(_DRIVER) or {}).get("driver") == own:
                    self._fs.rm_file(self._path(_DRIVER))

    def _create(self, name: str, content: dict[str, Any]) -> bool:
        """Write a file that is not there; False where the store cannot tell, EdgePLMError if it is."""
        self._make_folder_of(self._path(name))
        try:
            self._fs.pipe_file(self._path(name), json.dumps(content).encode(), mode="create")
        except FileExistsError:
            raise _taken(self.url, "", SILENT_FOR) from None
        except StoreError:
            return False
        return True

    def _make_folder_of(self, path: str) -> None:
        if self._has_folders:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            data = json.loads(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise EdgePLMError(
                f"is damaged ({error})", where=f"{self.url}/{name}", mend="Start anew with --force"
            ) from error
        return data if isinstance(data, dict) else None

    def _path(self, *names: str) -> str:
        return "/".join((self._root.rstrip("/"), *names))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The kernel lets go of this lock when the driver dies, however it dies."""
    import fcntl

    if folder.exists() and not folder.is_dir():
        raise EdgePLMError("is a file", where=str(folder), mend="Choose another name for the output")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(str(folder), "", 0) from None
        for leftover in (folder / _PEOPLE).glob(".*.*"):  # of a worker that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _taken(where: str, who: str, wait: float) -> EdgePLMError:
    after = f"; one that was killed is forgotten after {wait:.0f} s" if wait else ""
    return EdgePLMError(
        f"another fleet is writing into it{who}",
        where=where,
        mend=f"Wait for it, or choose another output{after}",
    )


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _to_disk(folder: Path) -> None:
    """A rename must not be durable before what it names."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
