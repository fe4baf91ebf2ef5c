"""Where an environment's own Python comes from: Debian's packages, or a folder that a person gives."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtimes.provision.debian import PYTHON_OF, debian_release, make_python
from runtimes.provision.pins import ONNXRUNTIME_GENAI, PYTHONS, Machine
from toolkit.errors import DeviceError
from toolkit.files import sha256_of
from toolkit.progress import Progress

# The machine of an ELF file (e_machine, at byte 18).
_ELF_MACHINES = {"aarch64": 183, "x86_64": 62}


@dataclass(frozen=True)
class Base:
    """A Python that brings all it needs: its `version`, what it is in words, and how it gets into a folder.

    `fill(folder, scratch, runtime, progress)` returns what to record of where it came from.
    """

    version: str
    words: str
    fill: Callable[[Path, Path, str, Progress], list[str]]


def debian_base(machine: Machine) -> Base:
    """Debian's Python, of the release that this machine runs. Raises DeviceError if it is no Debian."""
    release = debian_release()

    def fill(folder: Path, scratch: Path, runtime: str, progress: Progress) -> list[str]:
        # Hashes are in Python itself; of the runtimes only ONNX Runtime's never imports ssl.
        return make_python(folder, machine, release, scratch, progress, ssl=runtime != ONNXRUNTIME_GENAI)

    return Base(PYTHON_OF[release], f"Debian {release}", fill)


def folder_base(given: Path, machine: Machine) -> Base:
    """A folder laid out as `runtimes.provision.debian` says. Raises DeviceError if it is another kind."""
    versions = [version for version in PYTHONS if (given / f"bin/python{version}").is_file()]
    programs = ", ".join(f"bin/python{version}" for version in PYTHONS)
    if len(versions) != 1 or not (given / "lib" / machine.loader).is_file():
        raise DeviceError(
            f"it needs one of {programs}, and lib/{machine.loader}",
            where=f"Python folder {given}",
            mend="Take the folder `base` of an environment that was made on Debian",
        )
    with open(given / f"bin/python{versions[0]}", "rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") != _ELF_MACHINES[machine.name]:
        raise DeviceError(
            f"its Python is not for {machine.name}",
            where=f"Python folder {given}",
            mend="Give a folder made for the device's processor",
        )
    files = sorted(path for path in given.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(given).as_posix()} {sha256_of(path)}\n".encode())

    def fill(folder: Path, scratch: Path, runtime: str, progress: Progress) -> list[str]:
        with progress.step("Copying the given Python", len(files), "files") as advance:
            for path in files:
                target = folder / path.relative_to(given)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
                advance(1)
        return [f"folder {digest.hexdigest()}"]

    return Base(versions[0], f"folder {digest.hexdigest()}", fill)
