"""Bundles: what is written is read back; what is incomplete, altered or unsafe is refused with a reason."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from exporters.bundle import (
    MANIFEST,
    AdapterInfo,
    BaseModelInfo,
    ChatForm,
    GoldenCheck,
    Manifest,
    PrecisionInfo,
    Provenance,
    RuntimeInfo,
    TokenInfo,
    list_files,
    open_bundle,
    read_manifest,
    safe_path,
    verify_files,
    write_manifest,
)
from toolkit.errors import BundleError

CONTENT = {
    "model.onnx": b"\x08\x0aonnx",
    "model.onnx.data": bytes(range(256)) * 20,
    "genai_config.json": b'{"model": {}}',
    "adapters/maud.onnx_adapter": b"TOADAPT" * 9,
}


@pytest.fixture
def bundle(tmp_path):
    """A complete bundle with an attached adapter, in a folder of its own."""
    folder = tmp_path / "bundle"
    (folder / "adapters").mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, manifest_of(folder))
    return folder


def manifest_of(folder: Path) -> Manifest:
    return Manifest(
        schema_version=1,
        name="maud",
        created="2026-01-02T03:04:05+00:00",
        edgeplm_version="0.1.0",
        base_model=BaseModelInfo("owner/näme", "ab" * 32, "LlamaForCausalLM", 1_000, "apache-2.0"),
        runtime=RuntimeInfo("onnxruntime-genai", "0.18.0", {"onnx": "1.23.0"}),
        precision=PrecisionInfo("int4", "k-quant int4 in blocks of 32", 4.5),
        context_length=512,
        tokens=TokenInfo(384, [1, 2], bos=0, stop_texts=["<end>", "</s>"]),
        chat_template="{{ messages }}",
        files=list_files(folder),
        adapters=[
            AdapterInfo("maud", "attached", "cd" * 32, 8, 16.0, ["q_proj"], "adapters/maud.onnx_adapter")
        ],
        task={"name": "lamp-3", "labels": ["1", "2"]},
        provenance=Provenance(10, 30, 0.75, "local", "ef" * 32),
        verification={"passed": True, "survival": None},
        golden=[GoldenCheck([1, 2, 3], [7, 8], [1.5, -2.25], [7, 9])],
        chat_form=ChatForm("<s>", "</s>\n", trim=True),
    )


def change(bundle: Path, edit) -> None:
    """Apply `edit` to the manifest as plain JSON values and write it back."""
    path = bundle / MANIFEST
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def refused(bundle: Path) -> str:
    """The message of the BundleError; it must say where the fault is and what to do."""
    with pytest.raises(BundleError) as raised:
        open_bundle(bundle)
    error = raised.value
    assert error.where and str(bundle) in error.where
    assert error.mend
    assert "\n" not in str(error)
    return str(error)


def test_round_trip(bundle):
    written = manifest_of(bundle)
    assert open_bundle(bundle) == read_manifest(bundle) == written
    assert written.total_bytes == sum(map(len, CONTENT.values()))
    assert [file.path for file in written.files] == sorted(CONTENT)


def test_unknown_fields_of_a_later_minor_addition_are_ignored(bundle):
    change(bundle, lambda data: (data.update(extra=1), data["tokens"].update(extra=[])))
    assert read_manifest(bundle) == manifest_of(bundle)


def test_optional_fields_may_be_missing(bundle):
    optional = ("adapters", "task", "provenance", "verification", "golden", "chat_form")
    change(bundle, lambda data: [data.pop(name) for name in optional])
    manifest = open_bundle(bundle)
    assert manifest.adapters == [] and manifest.task is None and manifest.provenance is None


def test_a_whole_number_is_read_where_a_float_is_declared(bundle):
    change(bundle, lambda data: data["precision"].update(bits_per_weight=4))
    bits = read_manifest(bundle).precision.bits_per_weight
    assert bits == 4.0 and isinstance(bits, float)


# Files


def test_missing_file(bundle):
    (bundle / "model.onnx.data").unlink()
    message = refused(bundle)
    assert "model.onnx.data: is missing" in message and "again" in message


def test_a_folder_in_the_place_of_a_file(bundle):
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").mkdir()
    assert "model.onnx: is missing" in refused(bundle)


def test_truncated_file(bundle):
    os.truncate(bundle / "model.onnx.data", 5_000)
    assert "model.onnx.data: has 5000 bytes, the manifest says 5120" in refused(bundle)


def test_altered_byte(bundle):
    path = bundle / "model.onnx.data"
    content = bytearray(path.read_bytes())
    content[4_000] ^= 1
    path.write_bytes(content)
    assert "model.onnx.data: was altered" in refused(bundle)
    assert open_bundle(bundle, hashes=False).name == "maud"  # sizes only, for callers in a hurry


def test_a_file_name_longer_than_the_system_takes(bundle):
    change(bundle, lambda data: data["files"][1].update(path="x" * 300 + ".onnx"))
    assert "missing" in refused(bundle)


# Paths


@pytest.mark.parametrize(
    "name",
    [
        "../secret.json",
        "adapters/../../secret.json",
        "/etc/hosts.json",
        "//host/share.json",
        "..\\secret.json",
        "adapters\\x.json",
        "C:/secret.json",
        "C:secret.json",
        "c:\\secret.json",
        "x\0.json",
        "\ud800.json",
        ".",
        "./",
        "..",
        "",
    ],
)
def test_a_path_that_leaves_the_folder(bundle, tmp_path, name):
    (tmp_path / "secret.json").write_text("{}", encoding="utf-8")
    change(bundle, lambda data: data["files"][1].update(path=name))
    message = refused(bundle)
    assert "leaves the bundle's folder" in message
    assert "files[1].path" in message and "Do not use this bundle" in message


@pytest.mark.parametrize("target", ["../secret.json", "/etc/hostname", "adapters/../../secret.json"])
def test_a_link_that_leaves_the_folder(bundle, tmp_path, target):
    (tmp_path / "secret.json").write_text("{}", encoding="utf-8")
    (bundle / "genai_config.json").unlink()
    (bundle / "genai_config.json").symlink_to(target)
    assert "leaves the bundle's folder" in refused(bundle)


def test_a_linked_folder_that_leaves_the_folder(bundle, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (bundle / "adapters/maud.onnx_adapter").rename(tmp_path / "elsewhere/maud.onnx_adapter")
    (bundle / "adapters").rmdir()
    (bundle / "adapters").symlink_to(tmp_path / "elsewhere")
    assert "leaves the bundle's folder" in refused(bundle)


def test_a_link_within_the_folder_and_a_linked_bundle_are_fine(bundle, tmp_path):
    (bundle / "model.onnx").rename(bundle / "adapters/real.onnx")
    (bundle / "model.onnx").symlink_to("adapters/real.onnx")
    (tmp_path / "latest").symlink_to(bundle)
    assert open_bundle(tmp_path / "latest").name == "maud"


def test_safe_path_gives_the_path_below_the_folder(tmp_path):
    assert safe_path(tmp_path, "a/b.json", where="here") == tmp_path / "a" / "b.json"
    assert safe_path(tmp_path, "a..b/..c.json", where="here") == tmp_path / "a..b" / "..c.json"


@pytest.mark.parametrize("again", ["model.onnx", "./model.onnx", "adapters/./maud.onnx_adapter"])
def test_a_file_listed_twice(bundle, again):
    change(bundle, lambda data: data["files"].append({**data["files"][0], "path": again}))
    assert f"lists {again} twice" in refused(bundle)


@pytest.mark.parametrize(
    "name", ["model.pkl", "pytorch_model.bin", "x.pt", "x.py", "lib.so", "noname", "x.PKL"]
)
def test_a_forbidden_kind_of_file(bundle, name):
    (bundle / name).write_bytes(b"\x80\x04")
    with pytest.raises(BundleError, match="may not hold") as raised:
        list_files(bundle)
    assert raised.value.where == str(bundle / name)
    change(bundle, lambda data: data["files"].append({"path": name, "bytes": 2, "sha256": "00" * 32}))
    message = refused(bundle)
    assert f"files[{len(CONTENT)}].path: a bundle may not hold a {Path(name).suffix or 'nameless'}" in message


def test_an_adapter_whose_file_is_not_listed(bundle):
    change(bundle, lambda data: data["adapters"][0].update(file="adapters/other.onnx_adapter"))
    assert "adapters[0].file 'adapters/other.onnx_adapter' is not among the files" in refused(bundle)


@pytest.mark.parametrize(
    "config",
    [
        '{"model": {"decoder": {"session_options": {"custom_ops_library": "model.onnx.data"}}}}',
        '{"model": {"decoder": [{"run_on": {"custom_ops_library": "x.so"}}]}}',
        '{"model": {"custom_ops_library": "x.so"}, "model": {}}',
        '{"custom_ops\\u005flibrary": "x.so"}',
    ],
)
def test_a_library_of_native_code(bundle, config):
    """ONNX Runtime GenAI loads it, whatever the file is called, and its code runs."""
    (bundle / "genai_config.json").write_text(config)
    write_manifest(bundle, manifest_of(bundle))
    message = refused(bundle)
    assert (
        "genai_config.json: names a library of native code" in message and "Do not use this bundle" in message
    )


@pytest.mark.parametrize("config", ["{", "{'a': 1}", "[" * 100_000])
def test_a_runtime_configuration_that_is_not_json(bundle, config):
    (bundle / "genai_config.json").write_text(config)
    write_manifest(bundle, manifest_of(bundle))
    assert "genai_config.json: is not valid JSON" in refused(bundle)


# The manifest itself


def test_no_folder_and_no_manifest(bundle, tmp_path):
    assert "no such folder" in refused(tmp_path / "nothing")
    (bundle / MANIFEST).unlink()
    assert "is no bundle: it has no manifest.json" in refused(bundle)
    assert "edgeplm export" in refused(bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'a': 1}", b"\xff\xfe{\x00}\x00", b'{"name": "\xe9"}', b"[" * 100_000, b"9" * 10_000],
    ids=["empty", "cut", "python", "utf-16", "latin-1", "deep", "long number"],
)
def test_not_json(bundle, content):
    (bundle / MANIFEST).write_bytes(content)
    message = refused(bundle)
    assert "is not valid JSON" in message and len(message) < 500


@pytest.mark.parametrize("content", ["[]", "null", '"text"', "3"])
def test_json_but_no_object(bundle, content):
    (bundle / MANIFEST).write_text(content, encoding="utf-8")
    assert "is not a JSON object" in refused(bundle)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_wrong_schema_version(bundle, version):
    change(bundle, lambda data: data.update(schema_version=version))
    assert f"schema_version is {version!r}, this EdgePLM reads 1" in refused(bundle)


@pytest.mark.parametrize("version", [True, 1.0])
def test_a_schema_version_that_only_equals_one(bundle, version):
    change(bundle, lambda data: data.update(schema_version=version))
    assert "schema_version" in refused(bundle)


def required_fields():
    fields = dataclasses.fields(Manifest)
    names = [
        each.name
        for each in fields
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ]
    return [name for name in names if name != "schema_version"]


@pytest.mark.parametrize("name", required_fields())
def test_missing_field(bundle, name):
    change(bundle, lambda data: data.pop(name))
    assert f"field {name} is missing" in refused(bundle)


def test_missing_field_deeper_in(bundle):
    change(bundle, lambda data: data["files"][2].pop("sha256"))
    assert "field files[2].sha256 is missing" in refused(bundle)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda data: data.update(name=3), "field name is 3, expected str"),
        (lambda data: data.update(context_length="512"), "field context_length is '512', expected int"),
        (lambda data: data.update(context_length=True), "field context_length is True, expected int"),
        (lambda data: data.update(context_length=512.0), "field context_length is 512.0, expected int"),
        (lambda data: data.update(files={}), "field files is {}, expected list"),
        (lambda data: data.update(files=["a"]), "field files[0] is 'a', expected dict"),
        (lambda data: data.update(tokens=None), "field tokens is None, expected dict"),
        (lambda data: data["tokens"].update(stop=[1, "2"]), "field tokens.stop[1] is '2', expected int"),
        (lambda data: data["tokens"].update(bos="x"), "field tokens.bos is 'x', expected int"),
        (lambda data: data["precision"].update(bits_per_weight=True), "expected a number"),
        (lambda data: data["runtime"].update(made_with={"onnx": 1}), "field runtime.made_with.onnx is 1"),
        (lambda data: data.update(task=[]), "field task is [], expected dict"),
        (lambda data: data["golden"][0].update(top_logits=["nan"]), "field golden[0].top_logits[0]"),
        (lambda data: data.update(name=["x" * 10_000]), "expected str"),
    ],
)
def test_wrong_type(bundle, edit, said):
    change(bundle, edit)
    message = refused(bundle)
    assert said in message and len(message) < 400


def test_a_number_too_great_for_a_float(bundle):
    change(bundle, lambda data: data["precision"].update(bits_per_weight=10**400))
    assert "field precision.bits_per_weight" in refused(bundle)


def test_verify_files_checks_paths_of_a_manifest_from_elsewhere(bundle, tmp_path):
    manifest = manifest_of(bundle)
    outside = dataclasses.replace(manifest.files[0], path="../secret.json")
    with pytest.raises(BundleError, match="leaves the bundle's folder"):
        verify_files(bundle, dataclasses.replace(manifest, files=[outside]))


def test_write_manifest_replaces_the_old_one_whole(bundle):
    renamed = dataclasses.replace(manifest_of(bundle), name="théo")
    write_manifest(bundle, renamed)
    assert read_manifest(bundle).name == "théo"
    assert sorted(path.name for path in bundle.iterdir() if path.name.startswith(".")) == []
