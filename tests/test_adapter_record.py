"""An adapter says which base it belongs to, and another base is refused by name."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import tiny_adapter, tiny_base
from toy import PROFILE, RECIPE, TASK

from exporters.merge import check_base, merge_adapter, read_adapter
from exporters.onnx.adapter_file import read_low_rank
from toolkit.adapter_record import RECORD, AdapterRecord, read_record, write_record
from toolkit.bundling import make_bundle
from toolkit.errors import AdapterError, RecipeError
from toolkit.finetune import adapter_folder, finetune
from toolkit.models import BaseModel, load_model
from toolkit.recipe import ExportRecipe, recipe_from_dict

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "adapters"
    recipe = replace(RECIPE, epochs=2, history_in_prompt=1)
    return adapter_folder(out, finetune(base, PROFILE, TASK, recipe, out, seed=3).chosen)


def test_an_adapter_carries_its_base_and_how_it_is_asked(base: BaseModel, trained: Path) -> None:
    assert read_record(trained) == AdapterRecord(base.source, base.sha256, 1)
    facts = read_adapter(trained)
    assert (facts.base_sha256, facts.history_in_prompt) == (base.sha256, 1)
    check_base(facts, trained, base.source, base.sha256)


def test_peft_loads_the_folder_with_the_record_in_it(base: BaseModel, trained: Path) -> None:
    with torch.no_grad():
        plain = load_model(base)(PROMPT).logits
        assert (
            PeftModel.from_pretrained(load_model(base), str(trained))(PROMPT).logits - plain
        ).abs().max() > 1e-3


def test_another_base_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    other = tiny_base(tmp_path, seed=1)
    with pytest.raises(AdapterError) as error:
        make_bundle(other, trained, ExportRecipe(precision="fp32"), tmp_path / "bundle", name="anna")
    facts = read_adapter(trained)
    first, second = str(facts.base_sha256)[:12], other.sha256[:12]
    assert str(error.value) == (
        f"{trained}: was trained on {facts.base} (weights {first}), not on {other.source} "
        f"(weights {second}). Give its own base model, with the same task adapter"
    )
    assert not (tmp_path / "bundle").exists()


def test_an_adapter_trained_elsewhere_has_no_record_and_is_accepted(base: BaseModel, tmp_path: Path) -> None:
    facts = read_adapter(tiny_adapter(base, tmp_path / "adapter"))
    assert (facts.base_sha256, facts.history_in_prompt) == (None, 0)
    check_base(facts, tmp_path, "anything", "0" * 64)


@pytest.mark.parametrize("text", ["{", "[]", '{"base": "x"}', '{"base": "x", "base_sha256": 3}'])
def test_a_damaged_record_is_named(text: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match=rf"{RECORD}: .*Delete this file"):
        read_record(tmp_path)


def test_a_record_of_a_later_version_is_read(tmp_path: Path) -> None:
    record = AdapterRecord("x", "0" * 64, 2)
    write_record(tmp_path, record)
    path = tmp_path / RECORD
    path.write_text(json.dumps({**asdict(record), "later": 1}), encoding="utf-8")
    assert read_record(tmp_path) == record


def test_dora_is_merged_as_peft_computes_it_and_never_attached(base: BaseModel, tmp_path: Path) -> None:
    out = tmp_path / "adapters"
    report = finetune(base, PROFILE, TASK, replace(RECIPE, dora=True), out, seed=3)
    adapter = adapter_folder(out, report.chosen)
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(load_model(base), str(adapter))(PROMPT).logits
        merged = merge_adapter(load_model(base), adapter)(PROMPT).logits
        plain = load_model(base)(PROMPT).logits
    assert torch.allclose(merged, wanted, atol=1e-4)
    assert (merged - plain).abs().max() > 0.1
    with pytest.raises(
        AdapterError, match=r"has use_dora = True, which an attached adapter cannot do\. Export"
    ):
        read_low_rank(adapter)
    with pytest.raises(AdapterError, match=r"has use_dora = True"):
        make_bundle(base, adapter, ExportRecipe(form="attached"), tmp_path / "bundle", name="anna")


def test_a_recipe_that_would_attach_dora_is_refused_before_the_training() -> None:
    fields = {"task": "rewrite", "profile": "x", "finetune": {"dora": True}, "export": {"form": "attached"}}
    with pytest.raises(
        RecipeError, match=r"finetune\.dora.*found true, and an attached adapter can only be pl"
    ):
        recipe_from_dict(fields, "test")


def test_rank_stabilised_scaling_reaches_the_attached_file(base: BaseModel, tmp_path: Path) -> None:
    scaled = {}
    for rslora in (False, True):
        out = tmp_path / str(rslora)
        recipe = replace(RECIPE, rslora=rslora, learning_rate=1e-9, epochs=1, validation=0.0)
        changes = read_low_rank(
            adapter_folder(out, finetune(base, PROFILE, TASK, recipe, out, seed=3).chosen)
        )
        change = changes["model.layers.0.self_attn.q_proj"]
        scaled[rslora] = float(abs(change.b).max())
    # Adam's first steps are as large as the learning rate, whatever the scale: what differs is the scale.
    assert scaled[True] == pytest.approx(2 * scaled[False], rel=1e-3)  # sqrt of rank 4
