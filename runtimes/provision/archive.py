"""An environment as one file: the same inputs make the same bytes, and its key is a hash of what it holds."""

import gzip
import hashlib
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtimes.provision.pins import MACHINES, Spec
from toolkit.errors import DeviceError
from toolkit.files import keep_newest, sha256_of, staged_directory
from toolkit.progress import SILENT, Progress

MANIFEST, ARCHIVE, LAUNCHER = "environment.json", "environment.tar.gz", "python"
KEPT = 8

_OWN_FOLDER = """#!/bin/sh
# Starts the Python of this environment; made by EdgePLM.
case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
here=$(cd "$here" && pwd -P) || exit 127
unset LD_LIBRARY_PATH LD_PRELOAD PYTHONHOME PYTHONSTARTUP
export PYTHONPATH="$here/site" PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1 PYTHONUTF8=1
"""
# The version by name first: python3 may be another one by now.
_SYSTEM_PYTHON = """command -v python{version} >/dev/null 2>&1 && exec python{version} "$@"
exec python3 "$@"
"""
# Neither the device's loader nor its libraries are used. sys.executable becomes this launcher.
_OWN_PYTHON = """export PYTHONHOME="$here/base"
exec "$here/base/lib/{loader}" --inhibit-cache --library-path "$here/base/lib" \\
    --argv0 "$here/python" "$here/base/bin/python{version}" "$@"
"""


@dataclass(frozen=True)
class Archive:
    """An environment ready to be pushed: its `key`, the tar.gz file, its hash, and both sizes in bytes."""

    key: str
    path: Path
    sha256: str
    bytes: int
    unpacked_bytes: int


def launcher(spec: Spec) -> str:
    """The POSIX shell script that starts the environment's Python with the arguments it is given."""
    rest = _SYSTEM_PYTHON if spec.base is None else _OWN_PYTHON
    return _OWN_FOLDER + rest.format(version=spec.python, loader=MACHINES[spec.machine].loader)


def archive_of(
    spec: Spec, fill: Callable[[Path, Path], dict[str, Any]], cache: Path, progress: Progress = SILENT
) -> Archive:
    """The archive of `spec` from `cache`, or made there: `fill(folder, scratch)` puts its files into an empty
    folder and returns what to record of where they came from."""
    made = cache / spec.digest
    if not (made / "archive.json").is_file():
        with (
            staged_directory(made, force=True) as staging,
            tempfile.TemporaryDirectory(dir=cache, prefix=".making.") as name,
        ):
            folder, scratch = Path(name) / "environment", Path(name) / "scratch"
            folder.mkdir()
            scratch.mkdir()
            origin = fill(folder, scratch)
            (folder / LAUNCHER).write_text(launcher(spec))
            (folder / LAUNCHER).chmod(0o755)
            facts = _pack(spec, folder, origin, staging / ARCHIVE, progress)
            (staging / "archive.json").write_text(json.dumps(facts))
        keep_newest(cache, KEPT)
    try:
        facts = json.loads((made / "archive.json").read_text())
        path = made / ARCHIVE
        return Archive(facts["key"], path, facts["sha256"], path.stat().st_size, facts["unpacked_bytes"])
    except (OSError, ValueError, KeyError) as error:
        raise DeviceError(
            "cannot be read", where=str(made), mend="Delete this folder, and it is made again"
        ) from error


def _pack(
    spec: Spec, folder: Path, origin: dict[str, Any], target: Path, progress: Progress
) -> dict[str, Any]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = {name: [path.stat().st_size, sha256_of(path)] for name, path in zip(names, paths, strict=True)}
    about = {**asdict(spec), "spec": spec.digest, "origin": origin, "files": files}
    text = json.dumps(about, sort_keys=True, indent=0)
    (folder / MANIFEST).write_text(text)
    size = sum(path.stat().st_size for path in paths)
    with (
        progress.step(f"Packing {spec.name}", round(size / 1e6), "MB") as advance,
        open(target, "wb") as raw,
        # No name and no time in the header: the same content makes the same file.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in [MANIFEST, *names]:
            path = folder / name
            entry = tar.gettarinfo(path, arcname=name)
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with open(path, "rb") as content:
                tar.addfile(entry, content)
            advance(entry.size / 1e6)
    return {
        "key": hashlib.sha256(text.encode()).hexdigest()[:16],
        "sha256": sha256_of(target),
        "unpacked_bytes": size + len(text),
    }
