"""The agent as one program: a zipapp that a device's Python runs with nothing of ours installed there.

What goes in is found from the imports, so that no list has to be kept; the bytes depend on the sources alone,
so that an agent is known by its hash. See the standard library's `zipapp` for the format.
"""

import ast
import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGES = Path(__file__).resolve().parents[1]
_ROOMS = ("exporters", "runtimes", "toolkit")
_PROGRAM = "runtimes.agent"
_COMMAND_LINE = "toolkit.cli"
_DATA = {".py", ".css", ".html", ".jsonl", ".txt", ".yaml"}
_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that the zip format knows
_FILE_MODE = 0o644 << 16


@dataclass(frozen=True)
class Agent:
    """The zipapp's bytes and their hex sha256."""

    content: bytes
    sha256: str

    @property
    def name(self) -> str:
        """Its file's name on a device."""
        return f"{self.sha256[:16]}.pyz"


@cache
def agent_package() -> Agent:
    """The agent of this version of EdgePLM, engines included; the same sources give the same bytes."""
    return _packed(_PROGRAM, agent_files())


@cache
def toolkit_package() -> Agent:
    """All of this version of EdgePLM behind its command line, where its libraries are."""
    rooms = [path for room in (*_ROOMS, "benchmarks") for path in (_PACKAGES / room).rglob("*")]
    return _packed(_COMMAND_LINE, sorted(path for path in rooms if path.suffix in _DATA))


def agent_files() -> list[Path]:
    """The source files that the agent reaches through imports, those in functions too, in name order."""
    found: dict[str, Path] = {}
    waiting = [_PROGRAM]
    while waiting:
        module = waiting.pop()
        path = _source(module)
        if path is None or module in found:
            continue
        found[module] = path
        waiting += _imports(path)
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return sorted(found.values())


def _packed(program: str, files: list[Path]) -> Agent:
    stream = io.BytesIO()
    # Stored, not deflated: compressed bytes depend on the version of zlib.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        main = f"from {program} import main\n\nraise SystemExit(main())\n"
        _add(archive, "__main__.py", main.encode())
        for path in files:
            _add(archive, path.relative_to(_PACKAGES).as_posix(), path.read_bytes())
    content = stream.getvalue()
    return Agent(content, hashlib.sha256(content).hexdigest())


def _source(module: str) -> Path | None:
    if module.partition(".")[0] not in _ROOMS:
        return None
    path = _PACKAGES.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _imports(path: Path) -> list[str]:
    """Every module that the file's import statements may mean: `from a import b` names a, and perhaps a.b."""
    named: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            named.append(node.module)
            named += [f"{node.module}.{alias.name}" for alias in node.names]
    return named


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = 3  # Unix, wherever it is made
    entry.external_attr = _FILE_MODE
    archive.writestr(entry, content)
