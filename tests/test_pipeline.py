"""The whole job on a tiny model: what it makes, what it reuses, and what is left when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model_folder

from benchmarks.results import read_result
from exporters.bundle import open_bundle
from toolkit.pipeline import RunResult, run
from toolkit.recipe import Recipe, recipe_from_dict
from toolkit.samples import sample_path

pytestmark = pytest.mark.usefixtures("one_thread", "cache")

STAGES = ("adapters", "answers", "benchmark", "bundle", "dataset", "verification")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of bo's messages and two queries."""
    lines = sample_path("bo").read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("profile") / "bo.jsonl"
    path.write_text("\n".join([*lines[:12], *lines[-2:]]) + "\n", encoding="utf-8")
    return path


def tiny_recipe(model: Path, profile: Path, out: Path, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "model": str(model),
        "task": "rewrite",
        "profile": str(profile),
        "out": str(out),
        "augment": {"enabled": False},
        "finetune": {"epochs": 2, "learning_rate": 0.02, "retrieved": 1},
        "export": {"context_length": 448},
        "verify": {
            "prompts": 2,
            "continuation": 4,
            "min_correlation": -1,
            "max_metric_loss": 1,
            "max_kl": 50,
        },
        "bench": {"prompt_tokens": 16, "decode_tokens": 4, "repeats": 1, "warmup": 0, "settle": 0},
    }
    for section, values in changes.items():
        fields[section] = {**fields.get(section, {}), **values} if isinstance(values, dict) else values
    return recipe_from_dict(fields, "test")


@pytest.fixture(scope="module")
def finished(model: Path, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tiny_recipe(model, profile, tmp_path_factory.mktemp("run") / "run"))


def test_a_run_makes_everything(finished: RunResult) -> None:
    manifest = open_bundle(finished.bundle)
    assert manifest.adapters[0].kind == "merged"
    assert manifest.provenance is not None
    assert manifest.provenance.real_examples == 10  # 12 less the 2 held out to choose by
    assert manifest.verification is not None
    assert manifest.verification["passed"] is True
    assert [arm.arm for arm in finished.arms] == ["base", "base + history", "adapter (real)", "artifact"]
    assert all(len(arm.answers) == 2 for arm in finished.arms)
    assert finished.arm("base").answers != finished.arm("adapter (real)").answers
    assert read_result(finished.folder / "benchmark" / "result.json").samples
    page = finished.report.read_text(encoding="utf-8")
    assert "Did it survive quantisation?" in page


def test_survival_is_measured_against_the_base_twin(finished: RunResult) -> None:
    survival = finished.verification["survival"]
    assert len(survival["correlation"]) == 2
    assert 0.2 < survival["correlation_mean"] <= 1
    assert survival["size_mean"] > 0.3


def test_a_second_run_changes_nothing(finished: RunResult) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.json")}
    again = run(finished.recipe)
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.json")} == before
    assert again.verification == finished.verification
    assert [arm.answers for arm in again.arms] == [arm.answers for arm in finished.arms]


def test_a_changed_stage_runs_again_with_what_builds_on_it(finished: RunResult, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    adapters = (folder / "adapters" / "training.json").stat().st_mtime_ns
    recipe = tiny_recipe(
        Path(finished.recipe.model), finished.recipe.profile_path, folder, export={"precision": "fp32"}
    )
    changed = run(recipe)
    assert (folder / "adapters" / "training.json").stat().st_mtime_ns == adapters
    assert open_bundle(changed.bundle).precision.name == "fp32"
    assert changed.verification["survival"]["correlation_mean"] > 0.999
    assert changed.chosen_arm.answers == changed.arm("artifact").answers


def test_a_check_that_falls_short_is_reported_and_nothing_is_lost(
    finished: RunResult, tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        Path(finished.recipe.model), finished.recipe.profile_path, tmp_path / "run", verify={"max_kl": 0}
    )
    result = run(recipe)
    assert any("KL divergence" in failure for failure in result.failures)
    manifest = open_bundle(result.bundle)
    assert manifest.verification is not None
    assert manifest.verification["passed"] is False


def test_synthetic_examples_take_part_and_are_counted(model: Path, profile: Path, tmp_path: Path) -> None:
    synthetic = tmp_path / "answers"
    recipe = tiny_recipe(
        model,
        profile,
        tmp_path / "run",
        augment={
            "enabled": True,
            "examples": 2,
            "max_requests": 2,
            "examples_per_request": 2,
            "select": {"embedding": "base"},
        },
    )
    try:
        result = run(recipe)
    except Exception as error:  # a random model may write nothing that any filter keeps
        pytest.fail(f"{type(error).__name__}: {error} in {synthetic}")
    assert result.augmentation is not None
    assert result.augmentation.answered == sum(result.augmentation.dropped.values()) + len(
        result.augmentation.kept
    )
    assert (tmp_path / "run" / "teacher-answers.jsonl").is_file()


@pytest.mark.parametrize("stage", ["adapters", "bundle", "verification"])
def test_a_killed_run_goes_on_where_it_stopped(
    stage: str, finished: RunResult, model: Path, profile: Path, tmp_path: Path
) -> None:
    """Killed with SIGKILL while `stage` is being made: what was done stays, nothing half-made is trusted."""
    folder = tmp_path / "run"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(tiny_recipe(model, profile, folder).as_dict()), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "run", str(recipe)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not any(folder.glob(f".{stage}.*")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / ".stages" / f"{stage}.json").exists()
    done = {path.name for path in (folder / ".stages").glob("*.json")}
    result = run(tiny_recipe(model, profile, folder))
    assert [arm.answers for arm in result.arms] == [arm.answers for arm in finished.arms]
    assert {f"{name}.json" for name in STAGES if name != "dataset"} >= done
    assert not [path for path in folder.glob(".*.*") if path.is_dir()]
    open_bundle(result.bundle)
