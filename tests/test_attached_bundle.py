"""People put into a bundle and taken out: the manifest stays true, the base untouched, a crash harmless."""

import dataclasses
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from attached import ATTENTION, Built, build, lora, seal

from exporters import adapters
from exporters.adapters import add_adapter, list_adapters, remove_adapter
from exporters.bundle import AdapterInfo, open_bundle, read_manifest, write_manifest
from exporters.merge import read_adapter
from exporters.onnx.slots import add_slots_to_folder
from toolkit.errors import AdapterError, BundleError
from toolkit.files import sha256_of

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclasses.dataclass(frozen=True)
class Made:
    """A bundle with slots at the attention layers, and adapters for it."""

    built: Built
    slotted: Path
    anna: Path
    bo: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    built = build(folder)
    slotted = shutil.copytree(built.bundle, folder / "slotted")
    add_slots_to_folder(slotted, ATTENTION)
    seal(slotted)
    anna = lora(built.base, folder / "anna", target_modules=list(ATTENTION))
    return Made(built, slotted, anna, lora(built.base, folder / "bo", r=2, target_modules=["v_proj"], seed=5))


@pytest.fixture
def bundle(made: Made, tmp_path: Path) -> Path:
    return shutil.copytree(made.slotted, tmp_path / "bundle")


def names(bundle: Path) -> list[str]:
    return [adapter.name for adapter in list_adapters(bundle)]


def on_disk(bundle: Path) -> set[str]:
    return {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}


def test_added_listed_removed(bundle: Path, made: Made) -> None:
    before, start = on_disk(bundle), read_manifest(bundle)
    facts = read_adapter(made.anna)
    info = add_adapter(bundle, "anna", made.anna)
    assert info == AdapterInfo(
        "anna", "attached", facts.sha256, 4, 8.0, facts.targets, "adapters/anna.onnx_adapter"
    )
    add_adapter(bundle, "Zoë 2", made.bo)
    assert list_adapters(bundle)[0] == info
    assert names(bundle) == ["anna", "Zoë 2"]
    manifest = open_bundle(bundle)  # with sizes and hashes
    added = {"adapters/anna.onnx_adapter", "adapters/Zoë 2.onnx_adapter"}
    assert {file.path for file in manifest.files} == on_disk(bundle) - {"manifest.json"}
    assert on_disk(bundle) == before | added
    assert dataclasses.replace(manifest, files=start.files, adapters=[]) == start
    assert remove_adapter(bundle, "anna") == info
    remove_adapter(bundle, "Zoë 2")
    assert (on_disk(bundle), open_bundle(bundle)) == (before, start)


def test_the_base_is_not_even_read(bundle: Path, made: Made) -> None:
    """Its data may be gigabytes: neither its bytes nor its hash matter to who is added."""
    (bundle / "model.onnx.data").unlink()
    add_adapter(bundle, "anna", made.anna)
    assert names(bundle) == ["anna"]


def test_a_name_that_is_taken(bundle: Path, made: Made) -> None:
    add_adapter(bundle, "anna", made.anna)
    first = sha256_of(bundle / "adapters/anna.onnx_adapter")
    with pytest.raises(AdapterError, match=r"there is an adapter 'anna' already.*--force to replace it"):
        add_adapter(bundle, "anna", made.bo)
    with pytest.raises(AdapterError, match=r"there is an adapter 'anna' already\. Choose another name$"):
        add_adapter(bundle, "Anna", made.bo, force=True)
    assert sha256_of(bundle / "adapters/anna.onnx_adapter") == first
    add_adapter(bundle, "anna", made.bo, force=True)
    assert [adapter.rank for adapter in list_adapters(bundle)] == [2]
    open_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".anna", "a/b", "a\\b", "/a", "C:a", "a\nb", "anna.", " anna", "x" * 101, "\ud800"],
)
def test_names_that_cannot_be_files(bundle: Path, made: Made, name: str) -> None:
    before = on_disk(bundle)
    with pytest.raises(AdapterError, match="cannot be an adapter's name"):
        add_adapter(bundle, name, made.anna)
    assert on_disk(bundle) == before


def test_a_long_name_fits(bundle: Path, made: Made) -> None:
    add_adapter(bundle, "ä" * 50, made.anna)
    open_bundle(bundle)


def test_bundles_that_take_no_adapters(made: Made, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no LoRA slots.*Export it with `--form attached`"):
        add_adapter(made.built.bundle, "anna", made.anna)
    with pytest.raises(BundleError, match="no such folder"):
        add_adapter(tmp_path / "none", "anna", made.anna)
    with pytest.raises(BundleError, match="is no bundle"):
        add_adapter(tmp_path, "anna", made.anna)
    manifest = read_manifest(bundle)
    other = dataclasses.replace(manifest, runtime=dataclasses.replace(manifest.runtime, name="executorch"))
    write_manifest(bundle, other)
    with pytest.raises(BundleError, match="does not say what adapters fit"):
        add_adapter(bundle, "anna", made.anna)


def test_adapters_that_do_not_fit_leave_no_trace(made: Made, bundle: Path, tmp_path: Path) -> None:
    add_adapter(bundle, "anna", made.anna)
    before, manifest = on_disk(bundle), read_manifest(bundle)
    whole = lora(made.built.base, tmp_path / "whole")
    nothing = lora(made.built.base, tmp_path / "nothing", size=0.0, target_modules=["v_proj"])
    for adapter, said in ((whole, "changes down_proj, gate_proj, up_proj"), (nothing, "changes nothing")):
        with pytest.raises(AdapterError, match=said):
            add_adapter(bundle, "anna", adapter, force=True)
    with pytest.raises(AdapterError, match="no such folder"):
        add_adapter(bundle, "bo", tmp_path / "missing")
    assert (on_disk(bundle), open_bundle(bundle)) == (before, manifest)


def test_a_graph_that_is_not_where_the_configuration_says(bundle: Path, made: Made) -> None:
    config = bundle / "genai_config.json"
    data = json.loads(config.read_text())
    for filename, said in (
        ("../model.onnx", "leaves the bundle's folder"),
        ("other.onnx", "is no ONNX graph"),
    ):
        data["model"]["decoder"]["filename"] = filename
        config.write_text(json.dumps(data))
        with pytest.raises(BundleError, match=said):
            add_adapter(bundle, "anna", made.anna)


def test_an_adapter_folder_that_leads_elsewhere(bundle: Path, made: Made, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bundle / "adapters").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="leaves the bundle's folder"):
        add_adapter(bundle, "anna", made.anna)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_removing_who_is_not_there_or_merged(bundle: Path, made: Made) -> None:
    with pytest.raises(AdapterError, match=r"has no adapter 'zoe'\. It has: none"):
        remove_adapter(bundle, "zoe")
    merged = AdapterInfo("maud", "merged", "cd" * 32, 8, 16.0, ["q_proj"])
    write_manifest(bundle, dataclasses.replace(read_manifest(bundle), adapters=[merged]))
    with pytest.raises(AdapterError, match="'maud' is merged into its weights and cannot be taken out"):
        remove_adapter(bundle, "maud")
    with pytest.raises(AdapterError, match=r"there is an adapter 'maud' already\. Choose another name$"):
        add_adapter(bundle, "maud", made.anna, force=True)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("action", ["add", "replace", "remove"])
def test_a_bundle_opens_whenever_the_work_was_cut_off(
    bundle: Path, made: Made, monkeypatch: pytest.MonkeyPatch, action: str, step: int
) -> None:
    """Cut off before each rename, which is how everything gets its name, and before the removal of a file."""
    if action != "add":
        add_adapter(bundle, "anna", made.anna)
    count = 0

    def until(real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                raise Killed
            return real(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", until(os.replace))
        patch.setattr(Path, "unlink", until(Path.unlink))
        try:
            if action == "remove":
                remove_adapter(bundle, "anna")
            else:
                add_adapter(bundle, "anna", made.bo, force=True)
        except Killed:
            assert count > step  # cleaning up is not reached by a process that is no more
    manifest = open_bundle(bundle)
    assert len(manifest.adapters) <= 1
    add_adapter(bundle, "anna", made.anna, force=True)
    assert names(bundle) == ["anna"]
    open_bundle(bundle)


def _add(bundle: Path, name: str, adapter: Path) -> None:
    add_adapter(bundle, name, adapter)


def test_two_processes_at_once_lose_nobody(bundle: Path, made: Made) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(bundle, name, made.bo)) for name in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(names(bundle)) == ["a", "b", "c"]
    open_bundle(bundle)


def test_nothing_of_torch_is_needed(bundle: Path, made: Made) -> None:
    import subprocess
    import sys

    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from exporters.adapters import add_adapter\n"
        "add_adapter(Path(sys.argv[1]), 'anna', Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(bundle), str(made.anna)]
    root = Path(adapters.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert names(bundle) == ["anna"]
