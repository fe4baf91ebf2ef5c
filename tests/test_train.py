"""Fine-tuning: that it learns, repeats, keeps the best, and fails well."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny import tiny_base
from toy import HISTORY, RECIPE, TASK, examples

from toolkit.errors import AdapterError, EdgePLMError
from toolkit.finetune import open_chat
from toolkit.finetune.encode import EncodedExample, encode_history
from toolkit.finetune.learner import learning_rate_factor
from toolkit.finetune.scoring import mean_loss
from toolkit.finetune.train import (
    attach_adapter,
    save_adapter,
    train,
)
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Example

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


def encoded(base: BaseModel, history: tuple[Example, ...]) -> tuple[EncodedExample, ...]:
    return encode_history(history, TASK, open_chat(base), max_length=128).examples


def logits(model: Any, base: BaseModel) -> torch.Tensor:
    prompt = open_chat(base).prompt(TASK.render("about the other room"))
    with torch.no_grad():
        return model(torch.tensor([prompt])).logits


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def test_vanilla_peft_loads_the_folder_and_it_changes_the_output(base: BaseModel, tmp_path: Path) -> None:
    model = attach_adapter(load_model(base), RECIPE, seed=0)
    train(model, encoded(base, HISTORY), RECIPE, seed=0)
    save_adapter(model, tmp_path / "adapter", base.source)
    loaded = PeftModel.from_pretrained(load_model(base), str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded, base), logits(model, base))
    assert (logits(loaded, base) - logits(load_model(base), base)).abs().max() > 0.1
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_saving_asks_no_hub(base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft.utils.other

    asked: list[str] = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(peft.utils.other, "file_exists", lambda name, *_args, **_more: asked.append(name))
    save_adapter(attach_adapter(load_model(base), RECIPE, seed=0), tmp_path / "adapter", "owner/name")
    assert asked == []


def test_the_best_epoch_is_kept(base: BaseModel) -> None:
    model = attach_adapter(load_model(base), RECIPE, seed=0)
    contrary = encoded(base, examples("no, never", 4, "v"))
    recipe = replace(RECIPE, epochs=8, patience=0)
    outcome = train(model, encoded(base, HISTORY), recipe, seed=0, validation=contrary)
    best = min(outcome.validation_losses)
    assert len(outcome.validation_losses) == 8
    assert outcome.best_epoch == outcome.validation_losses.index(best) + 1 < 8
    assert mean_loss(model, contrary) == pytest.approx(best, rel=1e-5)
    assert mean_loss(model, contrary) < outcome.validation_losses[-1]
    assert not model.training


def test_training_stops_when_patience_ends(base: BaseModel) -> None:
    model = attach_adapter(load_model(base), RECIPE, seed=0)
    contrary = encoded(base, examples("no, never", 4, "v"))
    recipe = replace(RECIPE, epochs=12, patience=2)
    outcome = train(model, encoded(base, HISTORY), recipe, seed=0, validation=contrary)
    assert outcome.best_epoch is not None
    assert len(outcome.validation_losses) == outcome.best_epoch + 2 < 12
    assert outcome.steps == 2 * len(outcome.validation_losses)
    assert mean_loss(model, contrary) == pytest.approx(min(outcome.validation_losses), rel=1e-5)


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_last_good_adapter(base: BaseModel) -> None:
    model = attach_adapter(load_model(base), RECIPE, seed=0)
    good = encoded(base, HISTORY)
    poison = replace(good[0], id="poison", weight=math.nan)
    recipe = replace(RECIPE, batch_size=1, epochs=2)
    with pytest.raises(
        EdgePLMError,
        match=r"^finetune, batch of poison: the loss is no longer a number at step \d+ of 18\. "
        r"Lower finetune\.learning_rate, or look at these examples$",
    ):
        train(model, [*good, poison], recipe, seed=0)
    assert math.isfinite(mean_loss(model, good))


def test_a_learning_rate_that_diverges_puts_back_the_last_values_with_a_loss(base: BaseModel) -> None:
    model = attach_adapter(load_model(base), RECIPE, seed=0)
    before = weights(model)
    with pytest.raises(
        EdgePLMError, match=r"batch of (r\d, ){3}r\d: the loss is no longer a number at step 2"
    ):
        train(model, encoded(base, HISTORY), replace(RECIPE, learning_rate=1e30), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_divergence_after_a_good_epoch_puts_its_adapter_back(base: BaseModel) -> None:
    model = attach_adapter(load_model(base), RECIPE, seed=0)
    good = encoded(base, HISTORY)

    class Poisoned(list[EncodedExample]):
        """Turns bad once the first epoch has been validated."""

        seen = 0

        def __iter__(self) -> Any:
            self.seen += 1
            return iter([replace(each, weight=math.nan) for each in good[:2]] if self.seen > 2 else good[:2])

    with pytest.raises(EdgePLMError, match=r"batch of r0, r1: the validation loss is no longer .* epoch 2"):
        train(model, good, RECIPE, seed=0, validation=Poisoned(good[:2]))
    first = attach_adapter(load_model(base), RECIPE, seed=0)
    recipe = replace(RECIPE, epochs=4)
    outcome = train(first, good, recipe, seed=0, validation=good[:2])
    assert mean_loss(model, good[:2]) == pytest.approx(outcome.validation_losses[0], rel=1e-5)


def test_a_budget_changes_the_passes_and_not_the_training(base: BaseModel) -> None:
    outcomes = []
    for budget in (20, 4096):
        model = attach_adapter(load_model(base), RECIPE, seed=0)
        recipe = replace(RECIPE, epochs=2, tokens_per_pass=budget)
        outcomes.append((train(model, encoded(base, HISTORY), recipe, seed=0), weights(model)))
    (small, first), (large, second) = outcomes
    assert small.step_losses == pytest.approx(large.step_losses, rel=1e-4)
    # Adam turns rounding of a tiny gradient into a step, so that single values may part.
    gaps = [(a - b).norm() / b.norm() for a, b in zip(first, second, strict=True)]
    assert max(gaps) < 0.01


def test_rank_stabilised_lora_scales_by_the_root_of_the_rank(base: BaseModel) -> None:
    for rslora, scaling in ((False, 8.0 / 4), (True, 8.0 / 4**0.5)):
        model = attach_adapter(load_model(base), replace(RECIPE, rslora=rslora), seed=0)
        layers = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
        assert layers and all(layer.scaling == {"default": scaling} for layer in layers)


def test_dora_learns_magnitudes_and_peft_loads_it(base: BaseModel, tmp_path: Path) -> None:
    recipe = replace(RECIPE, dora=True)
    model = attach_adapter(load_model(base), recipe, seed=0)
    before = {name: p.clone() for name, p in model.named_parameters() if "magnitude" in name}
    outcome = train(model, encoded(base, HISTORY), recipe, seed=0)
    assert outcome.packed
    assert outcome.step_losses[-1] < outcome.step_losses[0] / 2
    assert len(before) == 14
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters() if n in before)
    save_adapter(model, tmp_path / "adapter", base.source)
    loaded = PeftModel.from_pretrained(load_model(base), str(tmp_path / "adapter"))
    assert torch.allclose(logits(loaded, base), logits(model, base), atol=1e-5)


def test_schedules() -> None:
    def rates(schedule: str, warmup: float = 0.2) -> list[float]:
        factor = learning_rate_factor(replace(RECIPE, schedule=schedule, warmup=warmup), 10)
        return [round(factor(step), 3) for step in range(10)]

    assert rates("linear") == [0.5, 1.0, 0.889, 0.778, 0.667, 0.556, 0.444, 0.333, 0.222, 0.111]
    assert rates("constant") == [0.5, *[1.0] * 9]
    cosine = rates("cosine")
    assert cosine[:2] == [0.5, 1.0]
    assert cosine[2] > rates("linear")[2] and cosine[-1] < rates("linear")[-1]
    assert cosine == sorted(cosine[:1]) + sorted(cosine[1:], reverse=True)
    assert all(0 < rate <= 1 for name in ("linear", "cosine", "constant") for rate in rates(name, 0.0))


def test_unknown_targets_list_the_real_ones(base: BaseModel) -> None:
    with pytest.raises(AdapterError) as error:
        attach_adapter(load_model(base), replace(RECIPE, targets=("query", "value")), seed=0)
    assert str(error.value) == (
        "finetune.targets: no such target modules: query, value. This model has: down_proj, gate_proj, "
        "k_proj, lm_head, o_proj, q_proj, up_proj, v_proj; or use all-linear"
    )


def test_named_targets_are_the_only_ones_adapted(base: BaseModel) -> None:
    model = attach_adapter(load_model(base), replace(RECIPE, targets=("q_proj", "v_proj")), seed=0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2
    assert all(".q_proj." in name or ".v_proj." in name for name in names)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_tied_head_is_refused_before_the_training(base: BaseModel, target: str) -> None:
    with pytest.raises(AdapterError, match=r"finetune\.targets: .*same weights.*Leave out lm_head"):
        attach_adapter(load_model(base), replace(RECIPE, targets=("q_proj", target)), seed=0)


def test_a_light_example_weighs_less_also_in_a_batch_of_its_own(base: BaseModel) -> None:
    (one,) = encoded(base, examples("yes, yes", 1))
    (other,) = encoded(base, examples("no, never", 1, "s"))
    light = replace(other, weight=0.05)
    model = attach_adapter(load_model(base), RECIPE, seed=0)
    train(model, [one, light], replace(RECIPE, batch_size=1, epochs=16), seed=0)
    assert mean_loss(model, [one]) < 0.5
    assert mean_loss(model, [other]) > 3 * mean_loss(model, [one])


def test_reported_losses_are_means_whatever_the_weights(base: BaseModel) -> None:
    recipe = replace(RECIPE, epochs=1, batch_size=8)
    first = [
        train(
            attach_adapter(load_model(base), recipe, seed=0),
            [replace(each, weight=weight) for each in encoded(base, HISTORY)],
            recipe,
            seed=0,
        ).step_losses[0]
        for weight in (1.0, 0.1)
    ]
    assert first[0] == pytest.approx(first[1], rel=1e-5)


def test_nothing_to_train_on_is_an_error(base: BaseModel) -> None:
    with pytest.raises(EdgePLMError, match="no example is left to train on"):
        train(attach_adapter(load_model(base), RECIPE, seed=0), [], RECIPE, seed=0)
