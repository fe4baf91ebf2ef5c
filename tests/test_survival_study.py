"""The survival study: many people over one base, resumable, with honest means."""

import json
from pathlib import Path

import pytest
from tiny import tiny_model_folder

from benchmarks.studies.people import read_people
from benchmarks.studies.survival import Settings, main, summary, survival_study
from toolkit.errors import ProfileError
from toolkit.models import resolve_model
from toolkit.progress import SILENT
from toolkit.recipe import ExportRecipe, FinetuneRecipe, VerifyRecipe

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = FinetuneRecipe(epochs=1, learning_rate=0.02, choose="real", max_length=128)
FEW = VerifyRecipe(prompts=2, continuation=4)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    return resolve_model(str(tiny_model_folder(tmp_path / "model")))


def two_people(tmp_path: Path) -> Path:
    path = tmp_path / "people.jsonl"
    rows = [
        {"id": f"{user}{index}", "user_id": user, "input": f"{word} number {index}",
         "output": str(1 + index % 5), "split": "query" if index > 8 else "history"}
        for user, word in (("ann", "Fine"), ("ben", "Poor"))
        for index in range(11)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_people_share_one_base_and_a_second_call_does_nothing_again(base, tmp_path: Path) -> None:
    people = read_people(two_people(tmp_path), "lamp-3", 5, 8)
    assert [person.profile.user_id for person in people] == ["ann", "ben"]
    export = ExportRecipe(form="attached", calibration="none", context_length=256)
    settings = Settings(export, SHORT, FEW)
    results = survival_study(base, people, settings, tmp_path / "out", SILENT)
    folder = tmp_path / "out" / "onnx-balanced-attached"
    assert sorted(path.name for path in (folder / "bundle" / "adapters").iterdir()) == [
        "ann.onnx_adapter", "ben.onnx_adapter",
    ]  # fmt: skip
    assert all(result["verification"]["survival"]["correlation_mean"] > 0.3 for result in results)
    before = (folder / "ann.json").stat().st_mtime_ns
    assert survival_study(base, people, settings, tmp_path / "out", SILENT) == results
    assert (folder / "ann.json").stat().st_mtime_ns == before


def test_the_gain_kept_is_a_ratio_of_sums() -> None:
    def result(base: float, exact: float, artifact: float, correlation: float) -> dict:
        survival = dict.fromkeys(
            ("correlation_mean", "correlation_worst", "size_mean", "kl_mean", "same_top_mean"), correlation
        )
        metrics = {"base": {"mae": base}, "float": {"mae": exact}, "artifact": {"mae": artifact}}
        return {"metric": "mae", "metrics": metrics, "verification": {"survival": survival}}

    found = summary([result(2.0, 1.0, 1.2, 0.9), result(1.0, 1.0, 1.0, 0.7)])
    assert found["people"] == 2
    assert found["metrics"]["mae"]["gain_kept"] == pytest.approx(0.8)
    figure = found["survival"]["correlation_mean"]
    assert (figure["mean"], figure["smallest"], figure["largest"]) == pytest.approx((0.8, 0.7, 0.9))
    assert figure["low"] >= 0.7 and figure["high"] <= 0.9


def test_nobody_is_left() -> None:
    with pytest.raises(ProfileError, match="nobody has 1000 examples and a query"):
        read_people(None, "lamp-3", 5, 1000)


def test_an_error_is_one_line(base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--model", base.source, "--least", "1000"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("Error: the sample users: nobody has 1000 examples and a query")
