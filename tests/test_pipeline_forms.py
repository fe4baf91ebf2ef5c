"""The whole job with an attached adapter, and with training on the quantised base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import cache, model, profile, tiny_recipe  # noqa: F401 - fixtures

from exporters.bundle import open_bundle
from exporters.quantise.calibrate import apply_weights, calibration_windows
from exporters.quantise.store import read_weights
from runtimes import open_engine
from toolkit import bundling
from toolkit.finetune import adapter_folder, open_chat
from toolkit.models import load_model, resolve_model
from toolkit.pipeline import RunResult, run
from toolkit.profiles import read_profile
from toolkit.recipe import ExportRecipe
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
    chat = open_chat(base)
    own = bundling.calibration(ExportRecipe(), chat, task, [person])
    assert own is not None and 0 < own.own < len(own.ids)
    without: Any = bundling.calibration(ExportRecipe(), chat, task, [replace(person, queries=())])
    assert without.sha256 == own.sha256
    fewer: Any = bundling.calibration(
        ExportRecipe(), chat, task, [replace(person, history=person.history[:5])]
    )
    assert fewer.sha256 != own.sha256
    neutral = bundling.calibration(ExportRecipe(calibration="neutral"), chat, task, [person])
    assert neutral is not None and neutral.own == 0
    for settings in (ExportRecipe(calibration="none"), ExportRecipe(precision="fp32")):
        assert bundling.calibration(settings, chat, task, [person]) is None
    assert calibration_windows([1] * 300).own == 0
