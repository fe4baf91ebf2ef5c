"""A site folder out of wheels for another machine: fetched with pip, unpacked, nothing of them run here."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from runtimes.provision.pins import MACHINES, Spec, dropped
from toolkit.errors import DeviceError
from toolkit.progress import SILENT, Progress


def make_site(spec: Spec, site: Path, scratch: Path, progress: Progress = SILENT) -> list[str]:
    """Unpack the wheels of `spec` into `site`, without what running a model never reads.

    Returns the wheels' file names. Raises DeviceError if pip cannot fetch one.
    """
    wheels = []
    with progress.step(f"Fetching {spec.name} for {spec.machine}", len(spec.packages), "wheels") as advance:
        for package, version in spec.packages.items():
            wheels.append(_fetch(f"{package}=={version}", spec, scratch))
            advance(1)
    with progress.step("Unpacking wheels", len(wheels), "wheels") as advance:
        for wheel in wheels:
            _unpack(wheel, site)
            advance(1)
    return sorted(wheel.name for wheel in wheels)


def _fetch(requirement: str, spec: Spec, scratch: Path) -> Path:
    folder = scratch / requirement
    folder.mkdir(parents=True)
    platforms = [word for tag in MACHINES[spec.machine].platforms for word in ("--platform", tag)]
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
        "--disable-pip-version-check", "--no-input", "--implementation", "cp",
        "--python-version", spec.python, *platforms, "--dest", str(folder), requirement,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    said = (lines or done.stderr.splitlines() or ["no wheel came"])[-1].removeprefix("ERROR: ")
    mend = "Look at the network of this machine, and at pip's settings"
    if "No module named pip" in done.stderr:
        mend = f"Type: {sys.executable} -m ensurepip"
    elif "+" in requirement:
        mend = "Name an index that has this build in the environment variable PIP_EXTRA_INDEX_URL"
    raise DeviceError(
        f"pip could not fetch its wheel for Python {spec.python} on {spec.machine} ({said})",
        where=f"package {requirement}",
        mend=mend,
    )


def _unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel as the wheel format says (PEP 427): NAME.data/purelib and platlib belong to the root."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = _place(member.filename)
            if member.is_dir() or path is None or dropped(path):
                continue
            target = site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


def _place(name: str) -> str | None:
    """Where a wheel's member goes below the site folder; None if it does not belong there."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise DeviceError("a wheel with a path that leaves its folder", where=name)
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if parts[1] in ("purelib", "platlib") else None
    return "/".join(parts)
