"""A run that chooses synthetic examples by models: the adapter on the real ones is trained once."""

from pathlib import Path
from typing import Any

import pytest
from scripted import json_lines
from teacher_server import completion
from test_augment_run import NOUNS
from test_pipeline import tiny_recipe
from tiny import tiny_model_folder

from toolkit.files import sha256_of
from toolkit.finetune import read_finetuning
from toolkit.pipeline import run
from toolkit.samples import sample_path

pytestmark = pytest.mark.usefixtures("one_thread")


def answer(number: int, body: Any) -> dict[str, Any]:
    """Two messages as long as bo's."""
    one, two = NOUNS[number], NOUNS[-number]
    come = (
        f"Hello Mrs Patel, I will come tomorrow at nine with the {one} for you. Please leave the gate open."
    )
    done = f"Hello Lee, the {two} is mended and in the van. You can have it on Thursday, or I bring it over."
    return completion(
        json_lines(
            (
                come,
                f"hiya mrs patel / gonna come tomoz at 9 with the {one} / leave the gate open pls / ta, bo",
            ),
            (
                done,
                f"hiya lee / mended the {two} and its in the van / have it thursday or i bring it / ta, bo",
            ),
        )
    )


def test_difficulty_is_measured_while_the_real_arm_is_trained(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    server = serve(answer)
    recipe = tiny_recipe(
        tiny_model_folder(tmp_path),
        sample_path("bo"),
        tmp_path / "run",
        augment={
            "enabled": True, "teacher": server.url, "model": "m", "hide": ["nothing"], "concurrency": 1,
            "examples": 2, "examples_per_request": 2, "max_requests": 4, "near_duplicate": 1.0,
            "select": {"embedding": "base", "candidates": 2, "semantic_duplicate": 1, "style": 0},
        },
        finetune={"epochs": 1, "retrieved": 0, "validation": 0.25},
    )  # fmt: skip
    result = run(recipe)
    made = result.augmentation
    assert made is not None and made.selection is not None
    assert made.selection.candidates == 4
    assert len(made.kept) == 2 == made.selection.kept
    assert made.answered == sum(made.dropped.values()) + len(made.kept)
    difficulty = next(step for step in made.selection.steps if step.filter == "difficulty")
    assert difficulty.acts
    assert len(made.selection.scores) == 4
    before, after = result.folder / "dataset" / "real-arm", result.folder / "adapters"
    weights = "real/adapter_model.safetensors"
    assert sha256_of(before / weights) == sha256_of(after / weights)
    assert read_finetuning(before).adapters[0] == read_finetuning(after).adapters[0]
    assert [arm.name for arm in read_finetuning(after).adapters] == ["real", "real+synthetic"]
    page = result.report.read_text(encoding="utf-8")
    assert "Filters by models" in page
    assert 'class="cloud kept"' in page
    # The same again asks and trains nothing.
    asked, times = len(server.bodies), {path: path.stat().st_mtime_ns for path in after.rglob("*")}
    run(recipe)
    assert len(server.bodies) == asked
    assert {path: path.stat().st_mtime_ns for path in after.rglob("*")} == times
