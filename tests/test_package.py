"""The agent as one program: what is in it, that it is always the same, and that it needs nothing of ours."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runtimes import package
from runtimes.package import agent_files, agent_package


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's file, far from any checkout."""
    path = tmp_path_factory.mktemp("device") / agent_package().name
    path.write_bytes(agent_package().content)
    return path


def run(program: Path, plan: object, *options: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    """Run it with the standard library alone, and numpy where `path` has it."""
    start = (
        f"import runpy, sys; sys.path[:0] = {[path] if path else []!r}; sys.argv[0] = {str(program)!r}; "
        f"runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, *options],
        input=json.dumps(plan) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=False,
    )


def test_what_is_in_it_follows_from_the_imports():
    names = zipfile.ZipFile(io.BytesIO(agent_package().content)).namelist()
    assert names[0] == "__main__.py"
    wanted = {"runtimes/agent.py", "runtimes/genai.py", "runtimes/executorch.py", "exporters/bundle.py",
              "toolkit/errors.py", "toolkit/files.py", "toolkit/json_dataclass.py"}  # fmt: skip
    assert wanted <= set(names)
    strangers = (
        "runtimes/devices",
        "runtimes/torch_engine",
        "toolkit/commands",
        "toolkit/recipe",
        "exporters/export",
    )
    assert not [name for name in names if name.startswith(strangers)]
    assert len(agent_package().content) < 200_000


def test_the_same_sources_give_the_same_bytes(tmp_path, monkeypatch):
    first = agent_package()
    for path in agent_files():
        copy = tmp_path / path.relative_to(package._PACKAGES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        os.utime(copy, (1_000_000_000, 1_000_000_000))
        copy.chmod(0o600)
    monkeypatch.setattr(package, "_PACKAGES", tmp_path)
    agent_package.cache_clear()
    assert agent_package().sha256 == first.sha256
    (tmp_path / "runtimes/agent.py").write_text("# another one\n")
    agent_package.cache_clear()
    assert agent_package().sha256 != first.sha256
    agent_package.cache_clear()


def test_it_runs_with_the_standard_library_and_numpy_alone(program, tmp_path):
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    packages = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists():
            (libraries / name).symlink_to(packages / name)
    done = run(program, {"bundle": "/no/such", "repeats": 1}, path=str(libraries))
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert samples[0]["kind"] == "hello", done.stderr
    assert samples[-1] == samples[-1] | {"kind": "error", "step": "load"}
    assert samples[-1]["message"].startswith("/no/such: no such folder")


def test_every_file_of_it_is_importable_on_its_own(program):
    """But for the engines' own libraries, nothing at import time is missing on a device."""
    done = run(program, {"bundle": 3})
    assert "No module named 'numpy'" in done.stderr


def test_with_the_lifeline_it_ends_when_its_input_does(program):
    code = (
        "import sys; from runtimes import agent\n"
        "def wait(folder, threads):\n"
        "    import time\n"
        "    time.sleep(120)\n"
        "sys.exit(agent.main(wait))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--end-with-input"],
        env={**os.environ, "PYTHONPATH": str(program), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b'{"bundle": "b"}\n')
        process.stdin.flush()
        while b'"load"' not in process.stdout.readline():
            assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=30) == 3
