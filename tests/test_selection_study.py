"""The study of selection: what is planted, and what is counted, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny import tiny_model_folder

from benchmarks.studies.people import read_people
from benchmarks.studies.selection import KINDS, command, planted

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_is_planted_is_not_in_the_history_and_wrong_where_it_says_so() -> None:
    people = read_people(None, "lamp-3", 2, 44)
    whole = people[0].profile.history
    person, found = planted(people, 0, 28, 8)
    assert person.profile.history == whole[:28]
    assert person.profile.queries == ()
    assert list(found) == list(KINDS)
    shown = {example.input for example in person.profile.history}
    assert not shown & {example.input for examples in found.values() for example in examples}
    assert [each.output for each in found["own"]] == [each.output for each in whole[28:36]]
    for wrong, right in zip(found["wrong"], whole[36:44], strict=True):
        assert wrong.input == right.input
        assert abs(int(wrong.output) - int(right.output)) >= 2
    assert found["other's"][0].input == people[1].profile.history[0].input
    texts = planted(read_people(None, "rewrite", 2, 44), 0, 28, 8)[1]["wrong"]
    assert len({each.output for each in texts}) == 8


def test_the_study_counts_by_kind_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    model = tiny_model_folder(tmp_path)
    words = ["--out", str(tmp_path / "out"), "--task", "rewrite", "--users", "2", "--history", "28"]
    words += ["--model", str(model), "--embedding", "base", "--train", "--epochs", "1"]
    done = CliRunner().invoke(command, [*words, "--json"])
    assert done.exit_code == 0, done.output
    people: list[dict[str, Any]] = json.loads(done.output)["people"]
    assert {row["user"] for row in people} == {"bo", "amara"}
    for row in people:
        assert set(row["losses"]) == {"real", "random", "chosen"}
        refused = sum(count for by_filter in row["refused"].values() for count in by_filter.values())
        assert refused + sum(row["kept"].values()) == 24
        assert sum(row["kept"].values()) == len(row["kept_ids"]) <= 8
    # A surgeon's letters are not a plumber's: that is seen whatever the model.
    assert sum(row["refused"]["other's"]["style"] for row in people) >= 14
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    shown = CliRunner().invoke(command, words)
    assert "2 people; median MMD squared" in shown.output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
