"""The whole job with an attached adapter, and with training on the quantised base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from test_finetune_faults import HARMED, contrary
from test_pipeline import cache, model, profile, tiny_recipe  # noqa: F401 - fixtures
from toy import PROFILE

from exporters.bundle import open_bundle
from exporters.merge import merge_adapter
from exporters.quantise.calibrate import apply_weights, calibration_windows
from exporters.quantise.store import read_weights
from runtimes import open_engine
from toolkit import bundling, quality
from toolkit.commands.outcome import outcome, show_outcome
from toolkit.finetune import adapter_folder, open_chat
from toolkit.finetune.evaluate import greedy_answers
from toolkit.models import load_model, resolve_model
from toolkit.pipeline import RunResult, run
from toolkit.profiles import read_profile, write_profile
from toolkit.recipe import ExportRecipe, Recipe
from toolkit.tasks import load_task

pytestmark = pytest.mark.usefixtures("one_thread", "cache")


@pytest.fixture(scope="module")
def attached(model: Path, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:  # noqa: F811
    recipe = tiny_recipe(
        model,
        profile,
        tmp_path_factory.mktemp("run") / "run",
        finetune={"quantization_aware": True},
        export={"form": "attached"},
    )
    return run(recipe)


def test_the_person_answers_from_an_attached_adapter(attached: RunResult) -> None:
    manifest = open_bundle(attached.bundle)
    (adapter,) = manifest.adapters
    assert adapter.kind == "attached" and adapter.name == attached.profile.user_id and adapter.file
    engine = open_engine(attached.bundle, 1)
    prompt = open_chat(resolve_model(str(attached.recipe.model))).prompt("Please tell them.")
    plain = engine.prefill(prompt)
    engine.use_adapter(adapter.name)
    assert abs(engine.prefill(prompt) - plain).max() > 0.1
    engine.close()
    survival = attached.verification["survival"]
    assert survival["correlation_mean"] > 0.9  # the base is quantised, the adapter is not
    assert attached.arm("artifact").answers != attached.arm("base").answers


def test_the_base_that_was_trained_on_is_the_base_that_is_shipped(attached: RunResult) -> None:
    """The artifact computes what the training's forward pass computed, up to its int8 activations."""
    from peft import PeftModel

    base = resolve_model(str(attached.recipe.model))
    trained = load_model(base)
    weights = read_weights(attached.folder / "weights" / "weights.safetensors")
    apply_weights(trained, weights)
    folder = adapter_folder(attached.folder / "adapters", attached.finetuning.chosen)
    personal = PeftModel.from_pretrained(trained, str(folder))
    prompt = open_chat(base).prompt("Please tell them that the meeting has moved.")
    with torch.no_grad():
        wanted = personal(input_ids=torch.tensor([prompt])).logits[0, -1].numpy()
    engine = open_engine(attached.bundle, 1)
    engine.use_adapter(attached.profile.user_id)
    found = engine.prefill(prompt)
    engine.use_adapter(None)
    plain = engine.prefill(prompt)
    assert abs(found - wanted).mean() < 0.25 * abs(plain - wanted).mean()


def test_training_on_the_quantised_base_is_another_training(attached: RunResult, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        Path(attached.recipe.model),
        attached.recipe.profile_path,
        tmp_path / "run",
        export={"form": "attached"},
    )
    plain = run(replace(recipe, out=str(tmp_path / "run")))
    assert plain.finetuning.base_validation_loss != attached.finetuning.base_validation_loss


def test_calibration_takes_the_history_and_never_the_queries(model: Path, profile: Path) -> None:  # noqa: F811
    base = resolve_model(str(model))
    task = load_task("rewrite")
    person = read_profile(profile, task)
    own = bundling.calibration(ExportRecipe(), base, task, [person])
    assert own is not None and 0 < own.own < len(own.ids)
    without: Any = bundling.calibration(ExportRecipe(), base, task, [replace(person, queries=())])
    assert without.sha256 == own.sha256
    fewer: Any = bundling.calibration(
        ExportRecipe(), base, task, [replace(person, history=person.history[:5])]
    )
    assert fewer.sha256 != own.sha256
    neutral = bundling.calibration(ExportRecipe(calibration="neutral"), base, task, [person])
    assert neutral is not None and neutral.own == 0
    for settings in (ExportRecipe(calibration="none"), ExportRecipe(precision="fp32")):
        assert bundling.calibration(settings, base, task, [person]) is None
    assert calibration_windows([1] * 300).own == 0


def test_the_bundle_is_asked_as_its_adapter_was_trained(model: Path, tmp_path: Path) -> None:  # noqa: F811
    write_profile(PROFILE, tmp_path / "anna.jsonl")
    result = run(
        tiny_recipe(
            model,
            tmp_path / "anna.jsonl",
            tmp_path / "run",
            finetune={"history_in_prompt": 2, "guard": False},
            export={"precision": "fp32"},
        )
    )
    assert result.bundle is not None
    manifest = open_bundle(result.bundle)
    assert [adapter.history_in_prompt for adapter in manifest.adapters] == [2]
    # In float32 the artifact answers as torch does, which was asked with the history.
    assert result.arm("artifact").answers == result.chosen_arm.answers
    base = resolve_model(str(model))
    chat, task = open_chat(base), load_task("rewrite")
    asked = quality.history_prompts(task, chat, PROFILE, 2, quality.prompt_limit(task, 448))
    plain = quality.query_prompts(task, chat, PROFILE.queries, quality.prompt_limit(task, 448))
    assert all(len(one) > len(other) for one, other in zip(asked, plain, strict=True))
    merged = merge_adapter(load_model(base), result.adapter)
    limit = quality.answer_limit(task, chat, PROFILE)
    assert greedy_answers(merged, chat, asked, max_new_tokens=limit) == result.chosen_arm.answers
    assert greedy_answers(merged, chat, plain, max_new_tokens=limit) != result.chosen_arm.answers


def test_an_adapter_that_is_no_better_is_not_shipped_and_the_report_says_so(
    model: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    write_profile(contrary(0), tmp_path / "anna.jsonl")
    folder = tmp_path / "run"

    def recipe(guard: bool) -> Recipe:
        settings = {**replace(HARMED, guard=guard).as_dict(), "retrieved": 0}
        changes = {"finetune": settings, "export": {"precision": "fp32"}}
        return tiny_recipe(model, tmp_path / "anna.jsonl", folder, **changes)

    shipped = run(recipe(guard=False))
    assert shipped.bundle == folder / "bundle" and open_bundle(shipped.bundle)
    result = run(recipe(guard=True))
    assert result.finetuning.better_than_base is False
    assert (result.bundle, result.benchmarks, result.verification) == (None, [], {})
    assert result.failures == [result.finetuning.withheld]
    assert not any((folder / name).exists() for name in ("bundle", "verification", "benchmark"))
    assert [arm.arm for arm in result.arms] == ["base", "adapter (real)"]
    page = result.report.read_text(encoding="utf-8")
    assert "Is there a bundle?" in page
    assert "the adapter is not better than the base model" in page
    printed = CliRunner().invoke(show, obj=result)
    assert printed.exit_code == 3
    assert "Check fell short: not shipped: on the held-out slice" in printed.stderr
    assert "ship it all the same with --set finetune.guard=false" in " ".join(printed.stderr.split())
    assert all(len(line) <= 80 for line in printed.stderr.splitlines())
    assert outcome(result)["bundle"] is None


@click.command()
@click.pass_obj
def show(result: RunResult) -> None:
    raise SystemExit(show_outcome(result, as_json=False))
