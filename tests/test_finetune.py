"""Fine-tuning a person's adapters: what is trained on, held out, chosen and reported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_base
from toy import HISTORY, PROFILE, RECIPE, TASK, examples

from toolkit.errors import EdgePLMError
from toolkit.finetune import adapter_folder, finetune, read_finetuning, split_history
from toolkit.models import BaseModel
from toolkit.profiles import Example

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "adapters"
    finetune(base, PROFILE, TASK, RECIPE, out, seed=3)
    return out


def test_the_loss_falls_on_what_can_be_learned(trained: Path) -> None:
    (adapter,) = read_finetuning(trained).adapters
    assert adapter.packed
    assert (adapter.examples, adapter.steps, len(adapter.step_losses)) == (6, 8, 8)
    assert adapter.step_losses[-1] < adapter.step_losses[0] / 2
    report = read_finetuning(trained)
    assert report.base_validation_loss is not None
    assert report.best_validation_loss == min(adapter.validation_losses) < report.base_validation_loss / 2
    assert report.better_than_base


def test_the_report_reads_back_as_it_was_written(base: BaseModel, tmp_path: Path) -> None:
    report = finetune(base, PROFILE, TASK, replace(RECIPE, epochs=1), tmp_path / "out")
    assert read_finetuning(tmp_path / "out") == report


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_seed_repeats_exactly_and_another_does_not(base: BaseModel, tmp_path: Path, dropout: float) -> None:
    recipe = replace(RECIPE, epochs=2, dropout=dropout)
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        finetune(base, PROFILE, TASK, recipe, tmp_path / name, seed=seed)

    def tensors(name: str) -> dict[str, torch.Tensor]:
        return load_file(adapter_folder(tmp_path / name, "real") / "adapter_model.safetensors")

    first, again, other = tensors("first"), tensors("again"), tensors("other")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert (tmp_path / "first/training.json").read_bytes() == (tmp_path / "again/training.json").read_bytes()


def test_the_split_is_of_the_history_and_repeats() -> None:
    training, held_out = split_history(HISTORY, 0.25, seed=1)
    assert len(held_out) == 2
    assert sorted([*training, *held_out], key=lambda e: e.id) == list(HISTORY)
    assert split_history(HISTORY, 0.25, seed=1) == (training, held_out)
    assert split_history(HISTORY, 0.25, seed=2)[1] != held_out
    assert len(split_history(HISTORY, 0.01, seed=1)[1]) == 1
    assert split_history(HISTORY, 0.0, seed=1) == (list(HISTORY), [])
    assert split_history(HISTORY[:4], 0.5, seed=1) == (list(HISTORY[:4]), [])


def test_queries_take_no_part(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    report = read_finetuning(trained)
    assert len(report.validation_ids) == 2
    assert set(report.validation_ids) <= {example.id for example in HISTORY}
    other = replace(PROFILE, queries=(Example("query-9", "quite another text", "no"),))
    finetune(base, other, TASK, RECIPE, tmp_path / "out", seed=3)
    for name in ("training.json", "real/adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (trained / name).read_bytes()


def run_with(
    base: BaseModel, out: Path, synthetic: tuple[Example, ...], **changes: Any
) -> tuple[Any, list[str]]:
    recipe = replace(RECIPE, **{"epochs": 2, **changes})
    report = finetune(base, PROFILE, TASK, recipe, out, synthetic=synthetic, seed=3)
    return report, sorted(path.name for path in out.iterdir() if path.is_dir())


def test_auto_chooses_by_the_held_out_history(base: BaseModel, tmp_path: Path) -> None:
    helpful, harmful = examples("yes, yes", 12, "s"), examples("no, never", 24, "s")
    report, folders = run_with(base, tmp_path / "helpful", helpful)
    assert folders == ["real", "real-and-synthetic"]
    assert report.chosen == "real+synthetic"
    assert [adapter.examples for adapter in report.adapters] == [6, 18]
    assert report.reason.startswith("lowest loss on the held-out slice of the history (real ")
    report, _ = run_with(base, tmp_path / "harmful", harmful, epochs=12)
    assert report.chosen == "real"


def test_a_choice_is_obeyed_and_only_its_adapter_trained(base: BaseModel, tmp_path: Path) -> None:
    harmful = examples("no, never", 8, "s")
    report, folders = run_with(base, tmp_path / "1", harmful, choose="real")
    assert (report.chosen, folders, report.reason) == ("real", ["real"], "the only one asked for")
    report, folders = run_with(base, tmp_path / "2", harmful, choose="real+synthetic")
    assert (report.chosen, folders) == ("real+synthetic", ["real-and-synthetic"])
    report, folders = run_with(base, tmp_path / "3", ())
    assert (report.chosen, folders) == ("real", ["real"])
    assert report.reason == "no synthetic examples to compare with"
    report, _ = run_with(base, tmp_path / "4", harmful, validation=0.0)
    assert (report.chosen, report.reason) == ("real", "no example was held out to compare on")
    assert (report.best_validation_loss, report.better_than_base) == (None, None)


def test_synthetic_examples_asked_for_and_not_there(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(
        EdgePLMError,
        match=r"^user anna, finetune\.choose: there are no synthetic examples to train on\. Have",
    ):
        run_with(base, tmp_path / "out", (), choose="real+synthetic")
    assert not (tmp_path / "out").exists()


def test_cut_and_dropped_examples_are_reported(base: BaseModel, tmp_path: Path) -> None:
    odd = (Example("cut", "long " * 200, "yes"), Example("dropped", "short", "yes " * 300))
    profile = replace(PROFILE, history=(*HISTORY, *odd))
    report = finetune(base, profile, TASK, replace(RECIPE, epochs=1), tmp_path / "out", max_length=96)
    assert (report.cut, report.dropped) == (["cut"], ["dropped"])


def test_nothing_that_fits_is_an_error(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(
        EdgePLMError, match=r"^user anna: none of the 6 examples fits 16 tokens\. Raise finet"
    ):
        finetune(base, PROFILE, TASK, replace(RECIPE, max_length=16), tmp_path / "out", seed=3)


def test_only_synthetic_examples_fit(base: BaseModel, tmp_path: Path) -> None:
    profile = replace(PROFILE, history=(Example("dropped", "short", "yes " * 300),))
    synthetic = examples("yes, yes", 4, "s")
    report = finetune(
        base, profile, TASK, replace(RECIPE, epochs=1), tmp_path / "out", synthetic=synthetic, max_length=96
    )
    assert (report.chosen, report.dropped) == ("real+synthetic", ["dropped"])


def test_an_output_is_not_overwritten_unless_asked(base: BaseModel, trained: Path) -> None:
    before = (trained / "training.json").read_bytes()
    with pytest.raises(EdgePLMError, match=r"already exists.*--force"):
        finetune(base, PROFILE, TASK, RECIPE, trained, seed=4)
    assert (trained / "training.json").read_bytes() == before
