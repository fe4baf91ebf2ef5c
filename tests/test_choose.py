"""`edgeplm bench --runtime`: a check on a bundle, and a choice among several."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_bundle import fake_bundle

import runtimes.devices
from benchmarks.choose import bundle_for
from exporters.bundle import RuntimeInfo, read_manifest, write_manifest
from runtimes.devices.local import LocalDevice
from toolkit.cli import cli
from toolkit.errors import BundleError

GENAI = "onnxruntime-genai"
FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
QUICK = ["--prompt-tokens", "8", "--decode-tokens", "4", "--repeat", "3", "--settle", "0"]


def bundle(folder, runtime):
    fake_bundle(folder)
    made = dataclasses.replace(read_manifest(folder), name=folder.name, runtime=RuntimeInfo(runtime, "1.0"))
    write_manifest(folder, made)
    return folder


def test_a_bundle_for_the_runtime_is_taken(tmp_path):
    assert bundle_for(bundle(tmp_path / "me", "executorch"), "executorch") == tmp_path / "me"
    assert bundle_for(bundle(tmp_path / "you", GENAI), "onnx") == tmp_path / "you"


def test_a_bundle_for_another_runtime_is_refused_before_anything_is_sent(tmp_path):
    me = bundle(tmp_path / "me", GENAI)
    given = ["bench", str(me), *QUICK, "--device", "adb:NO-SUCH-PHONE", "--runtime", "executorch"]
    done = CliRunner().invoke(cli, given, standalone_mode=False)
    assert isinstance(done.exception, BundleError)
    assert str(done.exception) == (
        f"{me}: this bundle is for onnxruntime-genai, and --runtime asks for executorch. "
        "Leave --runtime out: the bundle's manifest names its runtime"
    )


def test_of_a_folder_of_bundles_the_runtime_s_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes.devices, "parse_device", lambda name: LocalDevice(agent=FAKE))
    bundle(tmp_path / "me-onnx", GENAI)
    bundle(tmp_path / "me-pte", "executorch")
    (tmp_path / "notes").mkdir()
    given = ["bench", str(tmp_path), *QUICK, "--runtime", "executorch", "--json"]
    done = CliRunner().invoke(cli, given, standalone_mode=False)
    assert json.loads(done.stdout)["environment"]["bundle"]["name"] == "me-pte"


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({}, "no bundle for executorch in this folder. Make one: `edgeplm export --runtime executorch`"),
        ({"me": GENAI}, "no bundle for executorch in this folder, only me (onnxruntime-genai). Make one"),
        (
            {"me": "executorch", "you": "executorch", "them": GENAI},
            "2 bundles for executorch in this folder: me, you. Name the one to measure",
        ),
    ],
    ids=["none", "another", "several"],
)
def test_a_folder_without_the_one_that_is_meant(tmp_path, held, said):
    for name, runtime in held.items():
        bundle(tmp_path / name, runtime)
    with pytest.raises(BundleError) as caught:
        bundle_for(tmp_path, "executorch")
    assert str(caught.value).startswith(f"{tmp_path}: {said}")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        bundle_for(tmp_path / "nowhere", "onnx")
