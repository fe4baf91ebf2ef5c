"""A Python that needs nothing of the system it runs on: Debian's own, with its loader and C library.

The packages come through APT, verified by it, from whatever sources this machine has; APT's files lie in a
folder of their own, so that neither root nor a foreign architecture on this machine is needed. Laid out as

    bin/pythonX.Y   lib/LOADER   lib/*.so.N   lib/pythonX.Y/...   licences/
"""

import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from runtimes.provision.pins import Machine
from toolkit.errors import DeviceError
from toolkit.progress import SILENT, Progress

# Debian's releases whose Python takes the wheels, by their code names.
PYTHON_OF = {"bookworm": "3.11", "trixie": "3.13"}

_PACKAGES = (
    "python{version}-minimal", "libpython{version}-minimal", "libpython{version}-stdlib", "libc6",
    "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5",
)  # fmt: skip
_LIBRARIES = re.compile(
    r"(ld-linux.*|lib(c|m|dl|rt|util|pthread|gcc_s|stdc\+\+|z|expat|ffi|bz2|lzma|ssl|crypto)\.so\.\d+)"
)
_UNNEEDED = re.compile(
    r"(config-.*|__pycache__|curses|dbm|distutils|ensurepip|idlelib|lib2to3|pydoc_data|sqlite3|test|tkinter|"
    r"turtledemo|venv|wsgiref|xmlrpc)/.*"
    r"|turtle\.py|sitecustomize\.py|EXTERNALLY-MANAGED"
    r"|lib-dynload/(_codecs_(cn|hk|iso2022|jp|kr|tw)|_crypt|_curses.*|_dbm|_gdbm|_sqlite3|_test.*|_tkinter|_xx.*|"
    r"audioop|nis|ossaudiodev|readline|spwd|xx.*)\..*"
)
_NOT_DEBIAN = (
    "Run it on Debian 12 or 13 (a container is enough), or give --python-folder a folder with such a Python"
)
_SSL = {"bookworm": "libssl3", "trixie": "libssl3t64"}


def debian_release() -> str:
    """The code name of this machine's Debian. Raises DeviceError if it is no Debian whose Python fits."""
    try:
        about = platform.freedesktop_os_release()
    except OSError:
        about = {}
    release = about.get("VERSION_CODENAME", "")
    tools = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if about.get("ID") != "debian" or release not in PYTHON_OF or tools:
        raise DeviceError(
            "the device needs a Python of its own, made from packages of Debian "
            f"{' or '.join(PYTHON_OF)}, which this machine does not run",
            where=f"system {about.get('PRETTY_NAME', platform.system())}",
            mend=_NOT_DEBIAN,
        )
    return release


def make_python(
    folder: Path, machine: Machine, release: str, scratch: Path, progress: Progress = SILENT, *, ssl: bool
) -> list[str]:
    """Put `release`'s Python for `machine` into `folder`; with OpenSSL only if `ssl`, since it is large.
    Returns the package files' names.

    Raises DeviceError if APT cannot fetch a package.
    """
    version = PYTHON_OF[release]
    names = [name.format(version=version) for name in _PACKAGES] + ([_SSL[release]] if ssl else [])
    with progress.step(f"Fetching Debian's Python {version} for {machine.name}"):
        packages = _fetch(names, machine, scratch)
    with progress.step("Unpacking Debian's packages", len(packages), "packages") as advance:
        files: dict[str, bytes] = {}
        links: dict[str, str] = {}
        for package in packages:
            _read(package, version, files, links)
            advance(1)
    _write(folder, version, files, links)
    return sorted(package.name for package in packages)


def _fetch(names: Iterable[str], machine: Machine, scratch: Path) -> list[Path]:
    apt, packages = scratch / "apt", scratch / "packages"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "state/status").touch()
    packages.mkdir()
    options = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "state/status",
        "Dir::Cache": apt / "cache",
        "APT::Architecture": machine.debian,
        "APT::Sandbox::User": "root",  # who runs this is who owns these folders
        "Acquire::Languages": "none",
    }
    config = apt / "apt.conf"
    lines = [f'{name} "{value}";' for name, value in options.items()]
    # The machine's own list of architectures would be added to otherwise.
    architectures = f'APT::Architectures {{ "{machine.debian}"; }};'
    config.write_text("\n".join([*lines, "#clear APT::Architectures;", architectures]))
    environment = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}
    for command in (["apt-get", "-q", "update"], ["apt-get", "-q", "download", *names]):
        done = subprocess.run(
            command, cwd=packages, env=environment, capture_output=True, text=True, check=False
        )
        # A source that has nothing to do with Debian may fail; whether the packages come is what counts.
        if done.returncode != 0 and "download" in command:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no word of why"]
            raise DeviceError(
                f"APT could not fetch {machine.debian} packages of it ({said[-1]})",
                where="Debian's Python",
                mend="Look at this machine's network, and whether its APT sources offer that architecture",
            )
    return sorted(packages.glob("*.deb"))


def _read(package: Path, version: str, files: dict[str, bytes], links: dict[str, str]) -> None:
    """Gather what of a package belongs into the folder: contents by path, links between libraries."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as tar,
    ):
        for member in tar:
            place = _place(member.name, version)
            if place is None:
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                files[place] = content.read()
            elif member.issym() and place.startswith("lib/"):
                links[place] = f"lib/{PurePosixPath(member.linkname).name}"
    if unpacked.returncode != 0:
        raise DeviceError("dpkg-deb cannot read it", where=package.name, mend="Type the same command again")


def _place(member: str, version: str) -> str | None:
    """Where a package's file goes, or None."""
    parts = PurePosixPath(member).parts
    path = "/".join(part for part in parts if part not in (".", "/", "usr"))
    if path == f"bin/python{version}":
        return path
    if path.startswith(f"lib/python{version}/"):
        inner = path.removeprefix(f"lib/python{version}/")
        return None if _UNNEEDED.fullmatch(inner) else path
    if copyright_of := re.fullmatch(r"share/doc/([^/]+)/copyright", path):
        return f"licences/{copyright_of[1]}.txt"
    library = re.fullmatch(r"lib/(?:[^/]+-linux-gnu/)?([^/]+\.so[^/]*)", path)
    return f"lib/{library[1]}" if library else None


def _write(folder: Path, version: str, files: dict[str, bytes], links: dict[str, str]) -> None:
    """Write the files; a library lies under the name that programs ask for, so that no link is needed."""
    for link, target in links.items():
        if target in files and link != target:
            files.setdefault(link, files[target])
    for place, content in files.items():
        library = re.fullmatch(r"lib/([^/]+)", place)
        if library and not _LIBRARIES.fullmatch(library[1]):
            continue
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for program in (folder / "bin").iterdir():
        program.chmod(0o755)
    for loader in (folder / "lib").glob("ld-linux*"):
        loader.chmod(0o755)
    if not (folder / f"bin/python{version}").is_file() or not (folder / "lib/libc.so.6").is_file():
        raise DeviceError("Debian's packages are laid out in an unknown way", where=f"Python {version}")
