import io
import subprocess
import zipfile

import pytest
from provision_kit import HERE, NAME, Board, use_toy, wheel

from runtimes.package import toolkit_package
from runtimes.provision import TRAINING, pins
from runtimes.provision.requirements import closure
from toolkit.errors import DeviceError


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A device whose own Python has what the training needs: this machine's."""
    wheel(tmp_path / "wheels")
    use_toy(monkeypatch, tmp_path / "wheels")
    monkeypatch.setitem(pins._PACKAGES, TRAINING, ())
    monkeypatch.setitem(pins._IMPORTS, TRAINING, ())
    return Board(tmp_path / "board")


def test_all_that_the_training_requires_is_found_with_the_versions_here():
    spec = pins.spec_for(TRAINING, "aarch64", "3.12", None)
    assert {"torch", "transformers", "peft", "tokenizers", "markupsafe"} <= set(spec.packages)
    assert spec.packages["torch"] == pins._NAMED["torch", "aarch64"]
    assert not [name for name in spec.packages if name.startswith("nvidia")]


def test_what_another_system_needs_is_not_taken():
    assert "colorama" not in closure(["click"], "aarch64", HERE)


def test_a_package_that_is_not_here_is_named():
    with pytest.raises(DeviceError, match="package no-such-package: not installed here"):
        closure(["no-such-package"], "aarch64", HERE)


def test_edgeplm_goes_along_as_one_file_that_starts(board):
    report = board.prepare(training=True)
    assert [each.name for each in report.environments] == [NAME, TRAINING]
    launcher = board.root / "environments" / TRAINING / "python"
    command = ["sh", str(launcher), str(report.program), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "edgeplm" in done.stdout
    assert board.names("objects") == set()
    before = len(board.shell.lines)
    assert board.prepare(training=True).nothing_to_do
    assert not [line for line in board.shell.lines[before:] if "cat >>" in line]


def test_an_altered_program_is_sent_again(board):
    program = board.prepare(training=True).program
    with open(program, "ab") as file:
        file.write(b"!")
    board.prepare(training=True)
    with open(program, "rb") as file:
        assert file.read() == toolkit_package().content


def test_the_program_holds_its_tasks():
    with zipfile.ZipFile(io.BytesIO(toolkit_package().content)) as archive:
        names = archive.namelist()
    assert "toolkit/tasks/builtin/lamp-3.yaml" in names
    assert not [name for name in names if "__pycache__" in name]
