"""`edgeplm adapters`: people put into a bundle, listed and taken out from the command line."""

import json
import shutil
from pathlib import Path

import pytest
from attached import ATTENTION, build, lora, seal

from exporters.bundle import open_bundle
from exporters.onnx.slots import add_slots_to_folder
from toolkit.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    built = build(folder)
    add_slots_to_folder(built.bundle, ATTENTION)
    seal(built.bundle)
    lora(built.base, folder / "anna", target_modules=list(ATTENTION))
    lora(built.base, folder / "whole", r=2)
    return folder


@pytest.fixture
def edgeplm(made: Path, tmp_path: Path, capsys, monkeypatch):
    """Calls the command line beside a fresh bundle; gives the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "bundle", "bundle")

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["adapters", *map(str, arguments)])
        return (ended.value.code, *capsys.readouterr())

    return call


def test_add_list_remove(edgeplm, made: Path) -> None:
    assert edgeplm("list", "bundle") == (0, "No adapters. Put one in with `edgeplm adapters add`.\n", "")
    assert edgeplm("list", "bundle", "--json") == (0, "[]\n", "")
    status, said, err = edgeplm("add", "bundle", "--adapter", made / "anna", "--name", "anna")
    assert (status, said, err) == (0, "Added anna to bundle: rank 4, 0.0 MB\n", "")
    table = edgeplm("list", "bundle")[1]
    assert [line.split() for line in table.splitlines()] == [
        ["name", "kind", "rank", "alpha", "size", "targets"],
        ["anna", "attached", "4", "8", "0.0", "MB", *sorted(ATTENTION)],
    ]
    edgeplm("add", "bundle", "--adapter", made / "anna", "--name", "b" * 100)
    assert max(map(len, edgeplm("list", "bundle")[1].splitlines())) <= 80
    listed = json.loads(edgeplm("list", "bundle", "--json")[1])
    manifest = open_bundle(Path("bundle"))
    assert [entry["name"] for entry in listed] == ["anna", "b" * 100]
    assert listed[0]["targets"] == sorted(ATTENTION)
    assert listed[0]["bytes"] == Path("bundle/adapters/anna.onnx_adapter").stat().st_size
    assert listed[0]["sha256"] == manifest.adapters[0].sha256
    assert edgeplm("remove", "bundle", "--name", "anna") == (0, "Removed anna from bundle\n", "")
    assert [adapter.name for adapter in open_bundle(Path("bundle")).adapters] == ["b" * 100]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("remove", "bundle", "--name", "zoe"), 1, "Error: bundle: has no adapter 'zoe'. It has: none\n"),
        (("list", "nowhere"), 1, "Error: nowhere: no such folder."),
        (("add", "bundle", "--adapter", "nowhere", "--name", "zoe"), 1, "Error: nowhere: no such folder."),
        (("add", "bundle", "--name", "zoe"), 2, "Missing option '--adapter'"),
        (("add", "bundle", "--adapter", "x"), 2, "Missing option '--name'"),
        (
            ("add", "bundle", "--adapter", "x", "--name", "../x"),
            1,
            "Error: '../x' cannot be an adapter's name",
        ),
        (("rename", "bundle"), 2, "No such command 'rename'"),
    ],
)
def test_errors_are_one_line(edgeplm, arguments: tuple[str, ...], status: int, said: str) -> None:
    code, out, err = edgeplm(*arguments)
    assert (code, out) == (status, "")
    assert said in err
    assert status == 2 or err.count("\n") == 1


def test_a_person_again_and_one_who_does_not_fit(edgeplm, made: Path) -> None:
    add = ("add", "bundle", "--name", "anna", "--adapter")
    edgeplm(*add, made / "anna")
    status, _, err = edgeplm(*add, made / "anna")
    assert status == 1 and err.endswith("Choose another name, or add --force to replace it\n")
    assert edgeplm(*add, made / "anna", "--force")[0] == 0
    status, _, err = edgeplm(*add, made / "whole", "--force")
    assert status == 1 and "for which the base has no slot" in err and err.count("\n") == 1


def test_help_fits(edgeplm) -> None:
    for verb in ((), ("add",), ("list",), ("remove",)):
        status, said, _ = edgeplm(*verb, "--help")
        assert status == 0
        assert said.startswith(" ".join(["Usage: edgeplm adapters", *verb]))
        assert max(map(len, said.splitlines())) <= 80
