"""What the check needs, from npm and from Debian's packages, into a cache folder; nothing is installed.

Packages come by name through `npm` and `apt-get`, with the sources that this machine has. Old Debian packages
(the Android platform and dx were dropped after bullseye) come through a private APT folder, same mirror.
"""

import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

# The compiler's package holds the standard library, coroutines and kotlin-test too.
NPM = {"kotlin-compiler": "2.4.20", "react-native-executorch": "0.8.5"}
JVM = ("libgoogle-gson-java", "junit4", "libhamcrest-java")
APK = ("aapt", "zipalign", "apksigner")
PLATFORM = ("libandroid-23-java", "dalvik-exchange")
PLATFORM_RELEASE = "bullseye"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TIMEOUT = 300


class MissingError(Exception):
    """Something that cannot be had here; the message says what and why."""


def npm_package(cache: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    """The npm package `name` in the version that is known to work; of its files those that end so."""
    version = NPM[name]
    folder = cache / f"{name}-{version}"
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        raise MissingError(f"npm is not installed, and {name} comes from it")
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        # An empty prefix and no scripts: the package is only downloaded.
        _run(
            ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"],
            f"npm pack {name}",
            temporary,
        )
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar.getmembers() if member.name.endswith(suffixes)]
            tar.extractall(Path(temporary) / "out", wanted, filter="data")
        (Path(temporary) / "out").rename(folder)
    return folder


def debian_packages(cache: Path, names: Sequence[str], release: str | None = None) -> Path:
    """A folder with the files of Debian packages and of those of their dependencies that are not installed.

    `release` names an older Debian than this machine's; then the packages come without dependencies.
    """
    folder = cache / f"{release or 'own'}-{'-'.join(names)}"
    if folder.is_dir():
        return folder
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise MissingError(f"{program} is not there (no Debian), and {', '.join(names)} come from it")
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        root = Path(temporary)
        options = _private_apt(root, release)
        _run(["apt-get", "-q", *options, "update"], "apt-get update", temporary)
        archives = root / "cache" / "archives"
        if release:
            _run(
                ["apt-get", "-q", *options, "download", *names],
                f"download of {', '.join(names)}",
                str(archives),
            )
        else:
            install = ["install", "--download-only", "--reinstall", "--no-install-recommends", "-y", *names]
            _run(["apt-get", "-q", *options, *install], f"download of {', '.join(names)}", temporary)
        for package in sorted(archives.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(root / "out")], f"unpacking {package.name}", temporary)
        (root / "out").rename(folder)
    return folder


def find(folder: Path, name: str) -> Path:
    """The real file called `name` below `folder`."""
    for path in sorted(folder.rglob(name)):
        if path.is_file() and not path.is_symlink():
            return path
    raise MissingError(f"{name} is not in {folder.name}")


def find_jar(folder: Path, name: str) -> Path:
    """The jar called `name`, links followed: Debian's versions are in the names behind them."""
    for path in sorted(folder.rglob(f"{name}.jar")):
        target = path.resolve()
        if target.is_file():
            return target
    raise MissingError(f"{name}.jar is not in {folder.name}")


def _private_apt(root: Path, release: str | None) -> list[str]:
    """apt-get's options for a private tree; it reads the machine's own package states and changes nothing."""
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (root / name).mkdir(parents=True)
    options = {
        "Dir::State": root / "state",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": root / "cache",
        "APT::Sandbox::User": "root",
        "APT::Update::Post-Invoke::": "",
        "Debug::NoLocking": "true",
    }
    if release:
        sources = root / "sources.list"
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.is_file() else ""
        sources.write_text(f"deb {signed}{_debian_mirror()} {release} main\n")
        options |= {"Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": root / "parts"}
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _debian_mirror() -> str:
    """The address of the machine's own Debian mirror."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(errors="replace") for path in files if path.is_file())
    found = re.findall(r"^URIs:\s*(\S+)|^deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, re.MULTILINE)
    addresses = [first or second for first, second in found]
    plain = [address for address in addresses if address.rstrip("/").endswith("/debian")]
    if not plain:
        raise MissingError("this machine has no Debian mirror among its APT sources")
    return plain[0]


def _run(command: Sequence[str], what: str, folder: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise MissingError(f"{what}: no end within {_TIMEOUT} s") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stdout + error.stderr).splitlines() if line.strip()]
        raise MissingError(f"{what}: {lines[-1] if lines else error}") from None
