"""A task adapter below a person's: what is shipped holds both."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from test_pipeline import cache, model, tiny_recipe  # noqa: F401 - fixtures
from tiny import tiny_adapter
from toy import PROFILE, TASK

from exporters.bundle import open_bundle
from exporters.merge import check_base, read_adapter
from exporters.task_adapter import KEPT, with_task_adapter
from runtimes import open_engine
from toolkit.adapter_record import AdapterRecord, write_record
from toolkit.bundling import verify_bundle
from toolkit.errors import AdapterError
from toolkit.finetune import open_chat
from toolkit.models import BaseModel, cache_folder, load_model, resolve_model
from toolkit.pipeline import RunResult, run
from toolkit.profiles import write_profile
from toolkit.recipe import VerifyRecipe, read_recipe, recipe_from_dict

pytestmark = pytest.mark.usefixtures("one_thread", "cache")
PROMPT = torch.tensor([[5, 6, 7, 8]])


def logits(model: torch.nn.Module) -> torch.Tensor:  # noqa: F811
    with torch.no_grad():
        return model(PROMPT).logits


@pytest.fixture(scope="module")
def base(model: Path) -> BaseModel:  # noqa: F811
    return resolve_model(str(model))


@pytest.fixture(scope="module")
def task_adapter(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(base, tmp_path_factory.mktemp("task") / "everybody")


@pytest.fixture(scope="module")
def finished(
    model: Path,  # noqa: F811
    task_adapter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunResult:
    folder = tmp_path_factory.mktemp("run")
    write_profile(PROFILE, folder / "anna.jsonl")
    settings = {"task_adapter": str(task_adapter), "guard": False}
    changes = {"finetune": settings, "export": {"precision": "fp32"}}
    return run(tiny_recipe(model, folder / "anna.jsonl", folder / "run", **changes))


def test_the_merged_base_is_the_base_with_the_adapter(base: BaseModel, task_adapter: Path) -> None:
    merged = with_task_adapter(base, task_adapter, cache_folder())
    assert (merged.source, merged.licence) == (base.source, base.licence)
    assert merged.sha256 != base.sha256
    assert merged.task_adapter == read_adapter(task_adapter).sha256
    wanted = logits(PeftModel.from_pretrained(load_model(base), str(task_adapter)))
    assert torch.allclose(logits(load_model(merged)), wanted, atol=1e-4)
    assert (wanted - logits(load_model(base))).abs().max() > 0.1
    assert open_chat(merged).stop == open_chat(base).stop
    before = merged.folder.joinpath("model.safetensors").stat().st_mtime_ns
    assert with_task_adapter(base, task_adapter, cache_folder()) == merged
    assert merged.folder.joinpath("model.safetensors").stat().st_mtime_ns == before
    assert with_task_adapter(base, None, cache_folder()) is base


def test_the_bundle_holds_both_adapters(finished: RunResult, base: BaseModel, task_adapter: Path) -> None:
    assert finished.bundle is not None
    manifest = open_bundle(finished.bundle)
    assert manifest.base_model.task_adapter == read_adapter(task_adapter).sha256
    below = PeftModel.from_pretrained(load_model(base), str(task_adapter)).merge_and_unload()
    task_only = logits(below)
    both = logits(PeftModel.from_pretrained(below, str(finished.adapter)))
    engine = open_engine(finished.bundle, 1)
    found = torch.from_numpy(engine.score(PROMPT[0].tolist()))
    engine.close()
    assert torch.allclose(found, both[0], atol=1e-3)
    for without in (task_only, logits(PeftModel.from_pretrained(load_model(base), str(finished.adapter)))):
        assert (without - both).abs().max() > 0.1
    assert finished.arm("artifact").answers == finished.chosen_arm.answers
    assert finished.verification["survival"]["correlation_mean"] > 0.999  # of the person's adapter alone


def test_the_persons_adapter_is_refused_on_the_plain_base(
    finished: RunResult, base: BaseModel, task_adapter: Path
) -> None:
    assert finished.bundle is not None
    facts = read_adapter(finished.adapter)
    with pytest.raises(AdapterError, match=r"was trained on .* not on .*with the same task adapter"):
        check_base(facts, finished.adapter, base.source, base.sha256)
    merged = with_task_adapter(base, task_adapter, cache_folder())
    found = verify_bundle(finished.bundle, merged, finished.adapter, VerifyRecipe(prompts=2), TASK, PROFILE)
    assert found["survival"]["correlation_mean"] > 0.999


def test_an_adapter_of_another_base_is_no_task_adapter(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no such folder"):
        with_task_adapter(base, tmp_path / "nowhere", cache_folder())
    other = tiny_adapter(base, tmp_path / "other")
    write_record(other, AdapterRecord(base.source, "0" * 64))
    before = sorted(cache_folder().glob("task-bases/*"))
    with pytest.raises(AdapterError, match="weights 000000000000"):
        with_task_adapter(base, other, cache_folder())
    assert sorted(cache_folder().glob("task-bases/*")) == before


def test_the_cache_keeps_the_latest_few(base: BaseModel, tmp_path: Path) -> None:
    for number in range(KEPT + 1):
        adapter = tiny_adapter(base, tmp_path / str(number), size=0.05 + number / 100)
        latest = with_task_adapter(base, adapter, tmp_path / "cache")
    kept = [path for path in (tmp_path / "cache" / "task-bases").iterdir() if path.is_dir()]
    assert len(kept) == KEPT and latest.folder in kept


def test_a_recipes_path_starts_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: rewrite\nprofile: x\nfinetune: {task_adapter: all}\n", encoding="utf-8")
    assert read_recipe(path).task_adapter_path == tmp_path / "all"
    plain = recipe_from_dict({"task": "rewrite", "profile": "x"}, "test")
    assert replace(plain).task_adapter_path is None
