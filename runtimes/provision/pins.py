"""What goes into an environment: the one place that names packages, versions and what is left out.

Versions are those installed here, so that a device runs what the exporters were made and checked with. Two
are named instead: a Python runtime of ExecuTorch for aarch64 whose torch is a CPU build.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from runtimes.provision.requirements import closure, version_here

ONNXRUNTIME_GENAI, EXECUTORCH = "onnxruntime-genai", "executorch"
RUNTIMES = (ONNXRUNTIME_GENAI, EXECUTORCH)
TRAINING = "training"  # fine-tuning on the device

# CPython versions that the wheels exist for and that this program's own source runs on.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# All wheels used here are built for this C library or an older one, so one archive fits every newer system.
GLIBC = (2, 28)
# Raised when archives made before must not be taken for those made now.
LAYOUT = 1


@dataclass(frozen=True)
class Machine:
    """A processor architecture: `name` as uname says it, `debian` as Debian does, its loader's file name."""

    name: str
    debian: str
    loader: str

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that run with the oldest C library accepted (PEP 600), newest first."""
        newest = [f"manylinux_2_{minor}_{self.name}" for minor in range(GLIBC[1], 16, -1)]
        return (*newest, f"manylinux2014_{self.name}")


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("aarch64", "arm64", "ld-linux-aarch64.so.1"),
        Machine("x86_64", "amd64", "ld-linux-x86-64.so.2"),
    )
}

# The runtime's packages; whatever else they declare is for making models, which no device does.
_PACKAGES: dict[str, tuple[str, ...]] = {
    ONNXRUNTIME_GENAI: ("onnxruntime-genai", "onnxruntime", "numpy"),
    EXECUTORCH: ("executorch", "torch", "typing-extensions", "numpy"),
    # With all that these require.
    TRAINING: (
        "torch",
        "transformers",
        "peft",
        "safetensors",
        "numpy",
        "jinja2",
        "bm25s",
        "click",
        "pyyaml",
        "rich",
        "platformdirs",
    ),
}
_IMPORTS: dict[str, tuple[str, ...]] = {
    ONNXRUNTIME_GENAI: ("numpy", "onnxruntime_genai"),
    EXECUTORCH: ("numpy", "torch", "executorch.extension.pybindings._portable_lib"),
    TRAINING: ("torch", "transformers", "peft", "safetensors.torch", "jinja2", "bm25s"),
}
# executorch 1.1.0 reads what 1.4 writes, and is the last for torch 2.10, the last CPU wheel for aarch64.
_NAMED: dict[tuple[str, str], str] = {
    ("executorch", "aarch64"): "1.1.0",
    ("torch", "aarch64"): "2.10.0",
}

# Parts of the wheels that running a model never reads, as patterns of whole paths.
DROPPED = (
    r"(.*/)?tests/.*",
    r".*\.(pyi|pyx|pxd|h|hpp|cuh|c|cpp|cc|a|lib|cmake|f|f90|in|tmpl)",
    r"numpy/(f2py|_core/include|_core/lib|random/_examples)/.*",
    r"numpy/_core/_[a-z_]+_tests\..*",
    r"onnxruntime/(backend|datasets|quantization|tools|transformers)/.*",
    # A second copy of ONNX Runtime, for `import onnxruntime`; GenAI loads libonnxruntime.so beside it.
    r"onnxruntime/capi/onnxruntime_pybind11_state\..*",
    r"onnxruntime_genai/models/.*",
    # What `runtimes.executorch` loads, and no exporter.
    r"executorch/(?!version\.py$|extension/pybindings/_portable_lib\.|.*_ops_aot_lib\.).*",
    r"torch/(include|share|test)/.*",
    r"torch/bin/(?!torch_shm_manager$).*",
    r"[^/]+\.dist-info/(?!METADATA$|licenses?/|LICEN[CS]E|NOTICE|COPYING).*",
)


@dataclass(frozen=True)
class Spec:
    """An environment to be made: for which runtime, machine and Python, with which packages.

    `base` says where a Python and C library of its own come from; None: the device's Python runs it.
    """

    name: str
    machine: str
    python: str
    base: str | None
    packages: Mapping[str, str]
    imports: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hex sha256 of all that decides what the environment will hold."""
        decides = json.dumps([LAYOUT, DROPPED, asdict(self)], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()


def spec_for(name: str, machine: str, python: str, base: str | None) -> Spec:
    """The environment `name` for a machine and a Python. Raises DeviceError if one of its packages is not
    installed here, so that its version is not known."""
    names = _PACKAGES[name] if name != TRAINING else closure(_PACKAGES[name], machine, python)
    packages = {package: _version(package, machine) for package in names}
    return Spec(name, machine, python, base, packages, _IMPORTS[name])


def named_packages(name: str) -> tuple[str, ...]:
    """The packages that the environment `name` is for, without all that they require."""
    return _PACKAGES[name]


def dropped(path: str) -> bool:
    """Whether `path` of a wheel is left out."""
    return any(re.fullmatch(pattern, path) for pattern in DROPPED)


def _version(package: str, machine: str) -> str:
    return _NAMED.get((package, machine)) or version_here(package)
