"""How an adapter is computed in training: whichever way is taken, the steps are those of plain PyTorch."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_base
from toy import HISTORY, RECIPE, TASK, examples

import toolkit.finetune.layers as layers
from toolkit.finetune import open_chat
from toolkit.finetune.encode import EncodedExample, encode_history
from toolkit.finetune.learner import learning_rate_factor
from toolkit.finetune.packing import padded_loss
from toolkit.finetune.stacking import unstackable
from toolkit.finetune.train import attach_adapter, train
from toolkit.models import BaseModel, load_model
from toolkit.recipe import FinetuneRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

# As on real people: with 1e-2 Adam turns a gradient's rounding into whole steps.
CALM = replace(RECIPE, learning_rate=5e-4, epochs=3)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def base(request: Any, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


def encoded(base: BaseModel) -> tuple[EncodedExample, ...]:
    history = (*HISTORY, *examples("no, never", 5, "n"))
    return encode_history(history, TASK, open_chat(base), max_length=128).examples


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def trained(base: BaseModel, recipe: FinetuneRecipe) -> tuple[list[torch.Tensor], Any]:
    model = attach_adapter(load_model(base), recipe, 3)
    all_ = encoded(base)
    before = weights(model)
    outcome = train(model, all_[2:], recipe, seed=3, validation=all_[:2], measure_base=True)
    return before, (outcome, weights(model))


def reference(base: BaseModel, recipe: FinetuneRecipe) -> tuple[list[float], list[torch.Tensor]]:
    """The textbook's loop over padded batches with PEFT's own layers, to the last epoch."""
    model = attach_adapter(load_model(base), recipe, 3)
    own = [p for p in model.parameters() if p.requires_grad]
    order = list(encoded(base)[2:])
    optimizer = torch.optim.AdamW(own, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(order) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(recipe, steps))
    shuffler = random.Random(3)
    losses = []
    for _ in range(recipe.epochs):
        shuffler.shuffle(order)
        for start in range(0, len(order), recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            loss = padded_loss(model.base_model.model, batch) / sum(len(each.answer) for each in batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own, recipe.max_grad_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return losses, weights(model)


def furthest(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({}, "_StackOfOne"),
        ({"max_grad_norm": 1e-3, "weight_decay": 0.1, "rank": 2}, "_StackOfOne"),
        ({"tokens_per_pass": 120}, "_StackOfOne"),
        ({"rslora": True, "targets": ("q_proj", "down_proj")}, "_StackOfOne"),
        ({"dora": True}, "_OwnLayers"),
    ],
    ids=["plain", "clipped", "several-passes", "some-targets", "dora"],
)
def test_the_steps_are_those_of_the_textbook(
    base: BaseModel, changes: dict[str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = watched(monkeypatch)
    recipe = replace(CALM, **changes)
    losses, expected = reference(base, recipe)
    # No patience and a falling loss: the last epoch is the best one.
    before, (outcome, found) = trained(base, replace(recipe, patience=0))
    assert taken == [way] and outcome.packed
    assert outcome.best_epoch == recipe.epochs
    assert outcome.step_losses == pytest.approx(losses, rel=1e-4)
    assert furthest(found, expected) < 1e-5
    assert furthest(found, before) > 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_peft_s_own_layers_give_the_same(
    llama: BaseModel, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(CALM, dropout=dropout)
    _, (outcome, found) = trained(llama, recipe)
    taken = watched(monkeypatch)
    monkeypatch.setattr(layers, "unstackable", lambda _model: "as the test wishes")
    _, (other, expected) = trained(llama, recipe)
    assert taken == ["_OwnLayers"]
    assert other.step_losses == pytest.approx(outcome.step_losses, rel=1e-4)
    assert other.base_validation_loss == pytest.approx(outcome.base_validation_loss, rel=1e-5)
    assert furthest(found, expected) < 1e-5


def test_the_model_is_peft_s_again_afterwards(llama: BaseModel, tmp_path: Path) -> None:
    """No weight is a view of the training's row, and the layers compute by themselves."""
    for changes in ({}, {"dora": True}):
        model = attach_adapter(load_model(llama), replace(CALM, epochs=1, **changes), 3)
        train(model, encoded(llama), CALM, seed=3)
        own = [p for p in model.parameters() if p.requires_grad]
        assert len({p.untyped_storage().data_ptr() for p in own}) == len(own)
        assert all(p.grad is None for p in own)
        with torch.no_grad():
            with_it = model(torch.tensor([[5, 6, 7]])).logits
            with model.disable_adapter():
                without = model(torch.tensor([[5, 6, 7]])).logits
        assert (with_it - without).abs().max() > 1e-3


def test_another_precision_than_the_base_s_is_left_to_peft(llama: BaseModel) -> None:
    model = attach_adapter(load_model(llama).bfloat16(), CALM, 3)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert "another precision" in (unstackable(model) or "")
    assert unstackable(attach_adapter(load_model(llama), CALM, 3)) is None


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the ways that `training_layers` takes from here on."""
    taken: list[str] = []
    chosen: Callable[..., Any] = layers.training_layers

    def choose(*given: Any) -> Any:
        found = chosen(*given)
        taken.append(type(found).__name__)
        return found

    monkeypatch.setattr("toolkit.finetune.train.training_layers", choose)
    return taken
