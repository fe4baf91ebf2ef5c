"""The training study on a tiny model: both sides really train, on the same, and end at the same loss."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import tiny_model_folder
from toy import HISTORY, PROFILE, RECIPE

from benchmarks.studies.training import command, summary
from benchmarks.studies.training_child import OURS, USUAL, batches
from toolkit.finetune.encode import EncodedExample
from toolkit.profiles import write_profile


def test_the_batches_are_those_of_the_training() -> None:
    examples = [EncodedExample(str(n), (n,), (1,)) for n in range(10)]
    found = list(batches(examples, RECIPE, seed=0))
    assert [len(batch) for batch in found] == [4, 4, 2] * RECIPE.epochs
    for epoch in range(RECIPE.epochs):
        seen = [each.id for batch in found[3 * epoch : 3 * epoch + 3] for each in batch]
        assert sorted(seen) == sorted(each.id for each in examples)
    assert found[:3] != found[3:6]


def test_both_sides_end_at_the_same_loss(tmp_path: Path) -> None:
    write_profile(PROFILE, tmp_path / "anna.jsonl")
    model = tiny_model_folder(tmp_path)
    line = (
        f"--out {tmp_path / 'out'} --people {tmp_path / 'anna.jsonl'} --task rewrite --least 4 --epochs 2 "
        f"--batch-size 4 --model {model}"
    )
    done = CliRunner().invoke(command, line.split())
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    (row,) = found["summary"]
    ours, usual = found["samples"]
    assert (ours["side"], usual["side"]) == (OURS, USUAL)
    assert ours["training_loss"] == pytest.approx(usual["training_loss"], rel=1e-3)
    assert ours["query_loss"] == pytest.approx(usual["query_loss"], rel=1e-3)
    assert ours["training_loss"] < 7  # the random base's is above it
    assert ours["tokens"] == usual["tokens"] > 2 * len(HISTORY)
    for sample in (ours, usual):
        assert sample["wall_seconds"] > 0 and 0 < sample["loaded_bytes"] <= sample["peak_bytes"]
        assert len(sample["answers"]) == 2
    assert row["largest_loss_difference"] < 1e-3
    assert row["fewer_operations"] == usual["operations"] / ours["operations"] > 1
    assert "times faster" in done.output
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("anna-*.json")}
    assert CliRunner().invoke(command, line.split()).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times  # what is done is not done again


def test_the_summary_compares_people_pair_by_pair() -> None:
    def row(user: str, side: str, seconds: float, metric: float) -> dict[str, object]:
        return {
            "user": user, "side": side, "batch_size": 4, "wall_seconds": seconds, "cpu_seconds": seconds,
            "peak_bytes": 10, "loaded_bytes": 5, "tokens": 100, "operations": seconds,
            "training_loss": 1.0, "query_loss": 1.0, "metrics": {"mae": metric}, "answers": ["3"],
        }  # fmt: skip

    rows = [
        row("b", USUAL, 40, 1.0),
        row("a", OURS, 2, 0.5),
        row("b", OURS, 10, 1.0),
        row("a", USUAL, 8, 0.5),
    ]
    (found,) = summary(rows, "mae")
    assert found["faster"]["estimate"] == 4.0
    assert found["metric_difference"]["estimate"] == 0.0
    assert (found[OURS]["seconds"], found[USUAL]["seconds"], found["people"]) == (6.0, 24.0, 2)
