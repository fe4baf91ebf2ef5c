"""The Android demo, as far as Python sees it; `make android-check` compiles and tests it."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from exporters.bundle import ALLOWED_SUFFIXES, SCHEMA_VERSION
from runtimes.plan import Plan

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "android-demo"


def kotlin(name):
    return next(DEMO.rglob(f"{name}.kt")).read_text(encoding="utf-8")


def test_the_runtimes_are_those_of_the_exporters():
    versions = tomllib.loads((DEMO / "gradle/libs.versions.toml").read_text(encoding="utf-8"))["versions"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    for name in ("executorch", "onnxruntime", "onnxruntime-genai"):
        assert versions[name] in wanted[name], name


def test_kotlin_and_python_know_the_same_kinds_of_files_and_fields():
    found = re.search(r"ALLOWED_SUFFIXES = setOf\((.*?)\)", kotlin("Bundles"), re.DOTALL)[1]
    assert set(re.findall(r'"(\.\w+)"', found)) == ALLOWED_SUFFIXES
    assert f"SCHEMA_VERSION = {SCHEMA_VERSION}" in kotlin("Manifest")
    known = re.search(r"KNOWN = setOf\((.*?)\)", kotlin("Plan"), re.DOTALL)[1]
    assert set(re.findall(r'"(\w+)"', known)) == {field.name for field in dataclasses.fields(Plan)}


def test_what_the_manifest_starts_is_there():
    manifest = (DEMO / "app/src/main/AndroidManifest.xml").read_text(encoding="utf-8")
    for name in re.findall(r'android:name="\.([\w.]+)"', manifest):
        assert (DEMO / "app/src/main/kotlin/org/edgeplm/demo" / (name.replace(".", "/") + ".kt")).is_file()
    assert "uses-permission" not in manifest


def test_kotlin_files_are_short_and_have_no_screen_in_the_tested_parts():
    for path in DEMO.rglob("*.kt"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") < 300, path
        for plain in ("bundle", "bench", "core"):
            assert plain not in path.parts or not re.search(r"^import android", text, re.MULTILINE), path


@pytest.mark.slow
def test_everything_that_can_be_checked_here():
    done = subprocess.run(
        [sys.executable, str(DEMO / "check")], capture_output=True, text=True, timeout=590, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
