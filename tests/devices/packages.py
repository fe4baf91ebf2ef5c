"""Debian packages for the virtual devices: fetched by APT into a tree of its own, unpacked without dpkg.

The mirror is the one this machine's own APT sources name, so nothing here says where Debian is, and APT
checks every file against the archive's signature as always. What was fetched stays for the next time.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from state import UnavailableError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def run(*command: str, **options: object) -> str:
    """Standard output of a program; UnavailableError with its last words if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    except OSError as fault:
        raise UnavailableError(f"{command[0]} cannot be started ({fault.strerror})") from fault
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise UnavailableError(f"`{' '.join(command[:3])} ...` failed with status {done.returncode}: {said}")
    return str(done.stdout)


def codename() -> str:
    """Debian's release that this machine runs, such as bookworm."""
    words = dict(
        line.strip().split("=", 1)
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        if "=" in line
    )
    if words.get("ID") != "debian" or "VERSION_CODENAME" not in words:
        raise UnavailableError("the virtual devices are built from Debian's packages, on Debian only")
    return words["VERSION_CODENAME"].strip('"')


def mirror() -> str:
    """Address of Debian's archive, as this machine's APT sources have it."""
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)")
    for line in listed.splitlines():
        address, release, component = line.split()
        if (release, component) == (codename(), "main"):
            return address
    raise UnavailableError(f"no APT source of this machine has {codename()}'s main archive")


class Archive:
    """One release for one architecture, in `folder`; `prepare` must have been called before `fetch`."""

    def __init__(self, folder: Path, release: str, architecture: str) -> None:
        self.release = release
        self.architecture = architecture
        self._folder = folder / f"{release}-{architecture}"

    def prepare(self) -> None:
        """Write the tree's configuration and get the list of packages.

        Where the mirror cannot be reached the list of the last time serves.
        """
        for name in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        source = f"deb [arch={self.architecture} signed-by={KEYRING}] {mirror()} {self.release} main\n"
        (self._folder / "sources.list").write_text(source, encoding="utf-8")
        settings = {
            "Dir": self._folder,
            "Dir::Etc": self._folder / "etc",
            "Dir::Etc::sourcelist": self._folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": self._folder / "state",
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder / "cache",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Architecture": self.architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "true",
        }
        lines = [f'{name} "{value}";\n' for name, value in settings.items()]
        lines.append(f'#clear APT::Architectures;\nAPT::Architectures {{ "{self.architecture}"; }};\n')
        self._configuration.write_text("".join(lines), encoding="utf-8")
        try:
            self._apt("update")
        except UnavailableError:
            if not any((self._folder / "state/lists").glob("*_Packages*")):
                raise

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """The .deb files of `names` and all that they depend on; only what is not in the cache is fetched."""
        self._apt("install", "--download-only", *names)
        simulated = self._apt("install", "--simulate", *names)
        wanted = [line.split() for line in simulated.splitlines() if line.startswith("Inst ")]
        return [self._archive_of(words[1], words[2].lstrip("(")) for words in wanted]

    @property
    def _configuration(self) -> Path:
        return self._folder / "apt.conf"

    def _archive_of(self, name: str, version: str) -> Path:
        found = list((self._folder / "cache/archives").glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))
        if not found:
            raise UnavailableError(f"APT has not fetched {name} {version}")
        return found[0]

    def _apt(self, command: str, *arguments: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._configuration), "LC_ALL": "C"}
        return run("apt-get", "--yes", "--quiet", command, *arguments, env=environment)


def unpack(archives: Iterable[Path], root: Path) -> None:
    """Unpack .deb files into `root`, without running anything of theirs: a second stage takes a quarter of an
    hour under emulation, and none of it is needed. /bin, /sbin and /lib are links into /usr, as on every
    Debian since bookworm."""
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for archive in archives:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as reader:
            tar = ["tar", "--extract", "--keep-directory-symlink", f"--directory={root}"]
            run(*tar, stdin=reader.stdout)
        if reader.returncode:
            raise UnavailableError(f"{archive.name} is damaged; remove it and try again")


def needed_programs(names: Iterable[str]) -> None:
    """UnavailableError that names the Debian packages of all programs that are missing.

    `names` are `program` or `program:package` where the package has another name.
    """
    missing = [
        name.partition(":")[2] or name
        for name in names
        if not shutil.which(name.partition(":")[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    ]
    if missing:
        raise UnavailableError(f"not installed here: {', '.join(missing)}; apt-get install them")
