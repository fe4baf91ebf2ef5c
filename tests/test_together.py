"""Several people in one pass: equal to one by one, in every respect."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny_base
from toy import RECIPE, TASK, examples

from toolkit.errors import EdgePLMError
from toolkit.finetune import adapter_folder, finetune, open_chat, read_finetuning
from toolkit.finetune.encode import encode_history
from toolkit.finetune.people import PeopleTrainer, finetune_people
from toolkit.finetune.together import Arm, new_stack, train_together
from toolkit.finetune.train import attach_adapter, train
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Example, Profile

pytestmark = pytest.mark.usefixtures("one_thread")

PEOPLE = (
    Profile("anna", TASK.name, examples("yes, yes", 9), ()),
    Profile("ben", TASK.name, examples("no", 14), ()),
    Profile("cleo", TASK.name, examples("perhaps, or else it may be", 3), ()),
    Profile("dora", TASK.name, (*examples("yes", 6), *examples("no", 6, "n")), ()),
)
# As on real people: with 1e-2 Adam turns a gradient's rounding into whole steps.
CALM = replace(RECIPE, learning_rate=5e-4, epochs=3)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def base(request: Any, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


def arms(base: BaseModel, *, held_out: int = 2) -> list[Arm]:
    chat = open_chat(base)
    made = []
    for person in PEOPLE:
        encoded = encode_history(person.history, TASK, chat, max_length=128).examples
        made.append(Arm(person.user_id, "real", encoded[held_out:], encoded[:held_out]))
    return made


def alone(base: BaseModel, arm: Arm, recipe: Any, double: bool = False) -> tuple[list[torch.Tensor], Any]:
    model = load_model(base)
    model = attach_adapter(model.double() if double else model, recipe, 3)
    if double:
        model.double()
    outcome = train(model, arm.examples, recipe, seed=3, validation=arm.validation)
    return [p.detach() for p in model.parameters() if p.requires_grad], outcome


def all_together(base: BaseModel, recipe: Any, slots: int, *, padded: bool, double: bool = False) -> dict:
    model = load_model(base)
    model = attach_adapter(model.double() if double else model, recipe, 3)
    if double:
        model.double()
    stack = new_stack(model, slots)
    found = {}
    for arm, learned in train_together(model, stack, arms(base), recipe, seed=3, padded=padded):
        stack.show(learned.values)
        weights = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        found[arm.person] = (weights, learned.training)
    return found


@pytest.mark.parametrize("padded", [False, True], ids=["segments", "padded"])
def test_weights_and_losses_are_those_of_one_by_one(base: BaseModel, padded: bool) -> None:
    found = all_together(base, CALM, 3, padded=padded)  # the fourth takes the place of the first who is done
    assert set(found) == {person.user_id for person in PEOPLE}
    for arm in arms(base):
        weights, training = found[arm.person]
        expected, outcome = alone(base, arm, CALM)
        assert max(float((a - b).abs().max()) for a, b in zip(weights, expected, strict=True)) < 1e-5
        assert training.steps == outcome.steps and training.best_epoch == outcome.best_epoch
        assert training.step_losses == pytest.approx(outcome.step_losses, rel=1e-4)
        assert training.validation_losses == pytest.approx(outcome.validation_losses, rel=1e-4)
    moved = [float(w.abs().max()) for w in found["anna"][0][1::2]]  # every B, which begins with zero
    assert min(moved) > 1e-4


def test_in_double_precision_nothing_but_rounding_is_left(llama: BaseModel) -> None:
    """Where rounding is small a large learning rate is no excuse: the steps are the same ones."""
    found = all_together(llama, RECIPE, 4, padded=False, double=True)
    for arm in arms(llama):
        expected, _ = alone(llama, arm, RECIPE, double=True)
        assert (
            max(float((a - b).abs().max()) for a, b in zip(found[arm.person][0], expected, strict=True))
            < 1e-6
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.3},
        {"max_grad_norm": 1e-3},
        {"weight_decay": 0.1, "warmup": 0.5},
        {"targets": ("q_proj", "down_proj"), "rank": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_means_the_same(llama: BaseModel, changes: dict[str, Any]) -> None:
    recipe = replace(CALM, **changes)
    found = all_together(llama, recipe, 3, padded=False)
    plain = all_together(llama, CALM, 3, padded=False)
    for arm in arms(llama):
        expected, _ = alone(llama, arm, recipe)
        pairs = zip(found[arm.person][0], expected, strict=True)
        assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-5
        assert found[arm.person][1].step_losses != plain[arm.person][1].step_losses


def test_more_than_one_pass_a_step(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import toolkit.finetune.together as together

    once = all_together(llama, CALM, 4, padded=False)
    monkeypatch.setattr(together, "PASS_TOKENS", 200)
    small = replace(CALM, tokens_per_pass=128)
    often = all_together(llama, small, 4, padded=False)
    for arm in arms(llama):
        expected, _ = alone(llama, arm, CALM)
        for found in (once, often):
            pairs = zip(found[arm.person][0], expected, strict=True)
            assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-5


def test_folders_are_those_of_one_by_one(base: BaseModel, tmp_path: Path) -> None:
    synthetic = {"ben": examples("no", 6, "s"), "dora": examples("yes", 5, "s")}
    recipe = replace(CALM, patience=1, epochs=5)
    outcomes = finetune_people(
        base, PEOPLE, TASK, recipe, lambda person: tmp_path / "together" / person.user_id,
        synthetic=synthetic, seed=3, slots=3,
    )  # fmt: skip
    assert [outcome.user_id for outcome in outcomes] == [person.user_id for person in PEOPLE]
    for person in PEOPLE:
        folder = tmp_path / "alone" / person.user_id
        expected = finetune(
            base, person, TASK, recipe, folder, synthetic=synthetic.get(person.user_id, ()), seed=3
        )
        other = tmp_path / "together" / person.user_id
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*"))
        found = read_finetuning(other)
        assert found.chosen == expected.chosen
        assert [a.name for a in found.adapters] == [a.name for a in expected.adapters]
        same = ("validation_ids", "cut", "dropped")
        assert all(getattr(found, name) == getattr(expected, name) for name in same)
        losses = [found.base_validation_loss, expected.base_validation_loss]
        assert losses == [None, None] or losses[0] == pytest.approx(losses[1], rel=1e-4)
        for adapter in expected.adapters:
            one, two = (adapter_folder(each, adapter.name) for each in (folder, other))
            configs = [json.loads((each / "adapter_config.json").read_text()) for each in (one, two)]
            assert configs[0] == configs[1]
            tensors = [load_file(each / "adapter_model.safetensors") for each in (one, two)]
            assert tensors[0].keys() == tensors[1].keys()
            for name, tensor in tensors[0].items():
                assert float((tensor - tensors[1][name]).abs().max()) < 1e-5


def test_vanilla_peft_loads_each_and_they_differ(llama: BaseModel, tmp_path: Path) -> None:
    finetune_people(llama, PEOPLE[:2], TASK, RECIPE, lambda person: tmp_path / person.user_id)
    ids = torch.tensor([open_chat(llama).prompt(TASK.render("about the other room"))])
    logits = []
    with torch.no_grad():
        for name in ("anna", "ben"):
            model = PeftModel.from_pretrained(load_model(llama), str(tmp_path / name / "real"))
            logits.append(model(ids).logits)
        logits.append(load_model(llama)(ids).logits)
    assert (logits[0] - logits[1]).abs().max() > 0.1
    assert (logits[0] - logits[2]).abs().max() > 0.1


def test_a_prepared_base_is_what_everybody_trains_on(llama: BaseModel, tmp_path: Path) -> None:
    def coarse(model: Any) -> None:
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.weight.copy_((layer.weight * 8).round() / 8)

    recipe = replace(CALM, epochs=1)
    finetune_people(llama, PEOPLE[:2], TASK, recipe, lambda person: tmp_path / person.user_id, prepare=coarse)
    for person in PEOPLE[:2]:
        finetune(llama, person, TASK, recipe, tmp_path / "alone", prepare=coarse, force=True)
        finetune(llama, person, TASK, recipe, tmp_path / "plain", force=True)
        found, alone_, plain = (
            load_file(folder / "real" / "adapter_model.safetensors")
            for folder in (tmp_path / person.user_id, tmp_path / "alone", tmp_path / "plain")
        )
        assert all(float((found[name] - alone_[name]).abs().max()) < 1e-5 for name in found)
        assert any(float((found[name] - plain[name]).abs().max()) > 1e-4 for name in found)


def test_one_persons_trouble_is_theirs_alone(llama: BaseModel, tmp_path: Path) -> None:
    long = Profile("long", TASK.name, (Example("x", "short", "yes " * 400),), ())
    wild = Profile("wild", TASK.name, examples("no", 6), ())
    made = {"wild": examples("no", 3, "s")}
    recipe = replace(CALM, synthetic_weight=1e38)
    people = (long, PEOPLE[0], wild)
    outcomes = finetune_people(
        llama, people, TASK, recipe, lambda person: tmp_path / person.user_id, synthetic=made, max_length=128
    )
    assert "none of the 1 examples fits 128 tokens" in str(outcomes[0].error)
    assert "user long" in str(outcomes[0].error)
    assert "no longer a number" in str(outcomes[2].error)
    assert outcomes[1].error is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anna"]
    finetune(llama, PEOPLE[0], TASK, recipe, tmp_path / "alone", max_length=128)
    one, two = (load_file(tmp_path / name / "real/adapter_model.safetensors") for name in ("anna", "alone"))
    assert all(float((one[name] - two[name]).abs().max()) < 1e-5 for name in one)


def test_a_folder_that_is_there_is_kept(llama: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "mine.txt").write_text("mine")
    recipe = replace(CALM, epochs=1)
    outcomes = finetune_people(llama, PEOPLE[:2], TASK, recipe, lambda person: tmp_path / person.user_id)
    assert isinstance(outcomes[0].error, EdgePLMError) and "already exists" in str(outcomes[0].error)
    assert outcomes[1].error is None
    assert (tmp_path / "anna" / "mine.txt").read_text() == "mine"


def test_what_cannot_be_computed_together_is_trained_one_by_one(
    llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose attention is not exchangeable: the same result, by the other way, and it says so."""
    import toolkit.finetune.people as people

    def eager(base: BaseModel) -> Any:
        model = load_model(base)
        model.set_attn_implementation("eager")
        return model

    monkeypatch.setattr(people, "load_model", eager)
    trainer = PeopleTrainer(llama, TASK, replace(CALM, epochs=1), seed=3)
    outcomes = list(trainer.train(PEOPLE[:2], lambda person: tmp_path / person.user_id))
    assert trainer.alone_because == "attention of the kind eager"
    assert [outcome.error for outcome in outcomes] == [None, None]
    finetune(llama, PEOPLE[0], TASK, replace(CALM, epochs=1), tmp_path / "alone", seed=3)
    one, two = (load_file(tmp_path / name / "real/adapter_model.safetensors") for name in ("anna", "alone"))
    assert all(torch.equal(one[name], two[name]) for name in one)
