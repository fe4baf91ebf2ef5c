"""A made-up runtime in a real wheel, and devices made of this machine: to test `runtimes.provision`."""

import sys
import zipfile
from pathlib import Path

import pytest
from local_shell import LocalShell

from runtimes.provision import pins, prepare

NAME = "onnxruntime-genai"  # the name of the environment; what is in it is the toy's
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
RUNTIME = "VALUE = 42\n"


def wheel(folder: Path, version: str = "1.0", tag: str = "py3-none-any", **files: str) -> Path:
    """A wheel of the package `toyruntime`; `files` by module name go in instead of its own module."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"toyruntime-{version}-{tag}.whl"
    about = f"toyruntime-{version}.dist-info"
    contents = {f"{name}.py": text for name, text in (files or {"toyruntime": RUNTIME}).items()}
    contents["tests/test_toy.py"] = "raise SystemExit('never sent')\n"
    contents["toy/tests/test_toy.py"] = "raise SystemExit('never sent')\n"
    contents[f"toyruntime-{version}.data/purelib/toydata.py"] = "PLACE = 'root'\n"
    contents[f"toyruntime-{version}.data/scripts/toy"] = "#!python\n"
    contents[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: toyruntime\nVersion: {version}\n"
    contents[f"{about}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
    contents[f"{about}/RECORD"] = ""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return path


def use_toy(monkeypatch: pytest.MonkeyPatch, wheels: Path, version: str = "1.0") -> None:
    """Let the environment hold the toy, of which pip finds only what is in `wheels`."""
    monkeypatch.setitem(pins._PACKAGES, NAME, ("toyruntime",))
    monkeypatch.setitem(pins._IMPORTS, NAME, ("toyruntime",))
    for machine in pins.MACHINES:
        monkeypatch.setitem(pins._NAMED, ("toyruntime", machine), version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))


class Board:
    """A device with tools of its own in `bin`, and the folder that EdgePLM has there."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir(parents=True)
        self.root = home / "it's $(here)"
        self.cache = home.parent / "cache"
        self.shell = LocalShell(home, path=(self.bin,), name="ssh://pi@board", **variables)
        self.tool("python3", f'exec "{sys.executable}" "$@"')
        for version in pins.PYTHONS:
            self.tool(f"python{version}", "exit 127" if version != HERE else f'exec "{sys.executable}" "$@"')

    def tool(self, name: str, script: str) -> None:
        """Put a program before all others of its name."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def prepare(self, *runtimes: str, **options):
        return prepare(self.shell, str(self.root), runtimes or (NAME,), cache=self.cache, **options)

    @property
    def environment(self) -> Path:
        return self.root / "environments" / NAME

    def names(self, folder: str) -> set[str]:
        return {path.name for path in (self.root / folder).iterdir()}
