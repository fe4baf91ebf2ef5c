"""`optimum-cli export edgeplm`: the same command as `edgeplm export`, found by optimum itself."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from tiny import Personal, tiny_personal

from exporters.bundle import open_bundle
from runtimes import open_engine
from runtimes.torch_engine import TorchEngine
from toolkit.commands.export import command
from toolkit.models import load_model

ROOT = Path(__file__).parents[1]
NAMESPACE = "optimum.commands.register"


@dataclass(frozen=True)
class Said:
    """What one call printed and its exit code."""

    status: int
    out: str
    err: str


@pytest.fixture
def optimum(tmp_path):
    """Calls optimum's command line from an empty folder, so that nothing is found by chance."""
    here = tmp_path / "here"
    here.mkdir()

    def call(*arguments: object, program: str = "optimum.commands.optimum_cli") -> Said:
        done = subprocess.run(
            [sys.executable, "-m", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=here,
            env={**os.environ, "EDGEPLM_CACHE": str(tmp_path / "cache")},
            timeout=300,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call


def test_optimum_lists_it(optimum):
    said = optimum("export", "--help")
    assert (said.status, said.err) == (0, "")
    assert "edgeplm" in said.out and "Export a personalised model" in said.out


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_its_help_is_the_commands_own(optimum, option):
    said = optimum("export", "edgeplm", option)
    assert (said.status, said.err) == (0, "")
    assert said == optimum("export", option, program="toolkit")
    for parameter in command.params:
        assert isinstance(parameter, click.Option)
        assert all(name in said.out for name in parameter.opts)


def test_finding_it_imports_nothing_heavy():
    """optimum reads it whatever it is asked for."""
    program = (
        "import sys\n"
        f"import {NAMESPACE}.edgeplm\n"
        "heavy = ('torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'click', 'toolkit', 'exporters')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_an_error_that_one_can_mend_is_one_line(optimum):
    said = optimum("export", "edgeplm", "--adapter", "none", "--out=x")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("Error: none: no such folder") and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "Missing option"),
        (("--out", "x", "--zork"), "No such option"),
        (("--adapter", "a", "--out", "x", "stray"), "unexpected extra argument"),
        (("--adapter", "a", "--out", "x", "--", "-h"), "unexpected extra argument"),
    ],
)
def test_wrong_usage(optimum, arguments, what):
    said = optimum("export", "edgeplm", *arguments)
    assert (said.status, said.out) == (2, "")
    assert what in said.err and said.err.startswith("Usage: ") and "Traceback" not in said.err


def test_the_package_carries_it():
    """A wheel holds what pyproject's patterns find; an editable install reads the same."""
    from setuptools import find_namespace_packages

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    found = find_namespace_packages(os.fspath(ROOT), include=include)
    assert [name for name in found if name.startswith("optimum")] == [NAMESPACE]
    # An __init__.py at any level would hide the rest of optimum.
    files = {path.relative_to(ROOT / "optimum").as_posix() for path in (ROOT / "optimum").rglob("*.py")}
    assert files == {"commands/register/edgeplm.py"}


@pytest.mark.usefixtures("one_thread")
def test_it_exports_a_bundle_in_which_the_adapter_is_felt(optimum, tmp_path):
    made: Personal = tiny_personal(tmp_path)
    said = optimum(
        *("export", "edgeplm", "--model", made.base.source, "--adapter", made.adapter),
        *("--out", tmp_path / "bundle", "--precision", "fp32", "--context-length", "256", "--json"),
    )
    assert said.status == 0, said.err
    assert json.loads(said.out)["bundle"] == str(tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").context_length == 256
    prompt = made.chat.prompt("Please tell them that the meeting has moved to Tuesday.")
    engine = open_engine(tmp_path / "bundle", 1)
    answer = engine.prefill(prompt)
    assert np.abs(answer - TorchEngine(made.model).prefill(prompt)).max() < 1e-3
    assert np.abs(answer - TorchEngine(load_model(made.base)).prefill(prompt)).max() > 0.1
    engine.close()
