"""All that some packages need, with the versions that are installed here, for another machine and Python."""

from collections.abc import Iterable
from importlib import metadata

from toolkit.errors import DeviceError

# A faster way to download, and the means to compile: a device does neither.
_LEFT_OUT = {"hf-xet", "setuptools", "triton"}


def version_here(package: str) -> str:
    """The version of `package` that is installed. Raises DeviceError if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise DeviceError(
            "not installed here, so the version that a device needs is not known",
            where=f"package {package}",
            mend=f"Type: python -m pip install {package}",
        ) from error


def closure(packages: Iterable[str], machine: str, python: str) -> list[str]:
    """The names of `packages` and of all that they require on Linux, in order (PEP 508); extras are not."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    there = {
        "extra": "",
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    found: set[str] = set()
    waiting = [canonicalize_name(package) for package in packages]
    while waiting:
        name = waiting.pop()
        # CUDA's packages: of no use to the processors here.
        if name in found or name in _LEFT_OUT or name.startswith(("nvidia-", "cuda-")):
            continue
        version_here(name)
        found.add(name)
        needs = map(Requirement, metadata.distribution(name).requires or [])
        waiting += [
            canonicalize_name(need.name)
            for need in needs
            if need.marker is None or need.marker.evaluate(there)
        ]
    return sorted(found)
