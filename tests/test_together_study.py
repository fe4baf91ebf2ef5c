"""The study of users an hour: both ways are really run, and give the same adapters."""

import json
from pathlib import Path

import pytest
from fleet_people import write_people
from tiny import tiny_base

from benchmarks.studies.together import Group, main, summary

pytestmark = pytest.mark.usefixtures("one_thread")


def test_both_ways_are_measured_and_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base(tmp_path / "model")
    people = write_people(tmp_path / "people.jsonl", 5)
    rows = people.read_text().splitlines()
    query = {"split": "query", "input": "about the end", "output": "yes"}
    rows += [json.dumps(query | {"user_id": f"user {user}", "id": f"q{user}"}) for user in range(5)]
    people.write_text("\n".join(rows) + "\n")
    with pytest.raises(SystemExit) as ended:
        main([
            "--people", str(people), "--task", "rewrite", "--model", base.source, "--group", "2",
            "--epochs", "1", "--out", str(tmp_path / "result.json"),
        ])  # fmt: skip
    assert ended.value.code == 0
    found = json.loads((tmp_path / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == found["summary"]
    assert [group["people"] for group in found["groups"]] == [2, 2]  # user 0 has too few examples
    assert found["summary"]["examples"] == 5 + 6 + 7 + 8
    assert found["summary"]["largest_difference"] < 1e-5
    assert found["summary"]["largest_loss_difference"] < 1e-4
    assert all(group["alone_seconds"] > 0 < group["together_cpu"] for group in found["groups"])


def test_the_ratio_is_of_sums_and_its_spread_is_told() -> None:
    groups = [Group(4, 40, 20, 10, 18, 12, 1, 1, 1e-7, 3e-6), Group(4, 40, 10, 10, 10, 8, 1, 1, 2e-7, 2e-6)]
    found = summary(groups)
    assert found["ratio"] == pytest.approx(1.5)
    assert (found["ratio_smallest"], found["ratio_largest"]) == (1.0, 2.0)
    assert found["ratio_of_cpu"] == pytest.approx(1.4)
    assert found["ratio_of_training_cpu"] == pytest.approx((28 - 8) / (20 - 2))
    assert found["users_per_hour_together"] == pytest.approx(3600 * 8 / 20)
    assert (found["largest_difference"], found["largest_loss_difference"]) == (2e-7, 3e-6)
