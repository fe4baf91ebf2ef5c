import dataclasses
import json

import pytest
from click.testing import CliRunner
from made_up import result

from benchmarks.compare import compare
from benchmarks.results import write_result
from toolkit.cli import cli


def run(*arguments):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)], standalone_mode=False)


@pytest.fixture
def files(tmp_path):
    """A run, the same run, and one that is a tenth slower."""
    paths = [tmp_path / f"{name}.json" for name in ("before", "same", "slower")]
    for path, slow in zip(paths, ((), (), (1.1,) * 5), strict=True):
        write_result(result(slow=slow), path)
    return paths


def test_a_run_against_itself_has_not_changed():
    found = compare(result(), result())
    assert {change.outcome for change in found.changes} == {"same"}
    assert all(change.ratio == 1 for change in found.changes)
    assert found.doubts == ()


def test_a_slowdown_beyond_chance_is_worse_in_both_directions_of_good():
    changes = {change.name: change for change in compare(result(), result(slow=(1.1,) * 5)).changes}
    assert changes["prefill_rate"].outcome == "worse"
    assert changes["prefill_rate"].ratio == pytest.approx(1 / 1.1, rel=0.01)
    assert changes["ttft"].outcome == "worse"
    assert changes["ttft"].ratio == pytest.approx(1.1, rel=0.01)
    assert changes["ttft"].low < 1.1 < changes["ttft"].high
    assert changes["ttft"].worse_by() == pytest.approx(0.1, rel=0.1)
    assert changes["peak_rss"].outcome == "same"
    back = {change.name: change for change in compare(result(slow=(1.1,) * 5), result()).changes}
    assert back["prefill_rate"].outcome == back["ttft"].outcome == "better"


def test_chance_is_no_change():
    before, after = result(), result(slow=(1.02, 0.97, 1.01, 0.99, 1.0))
    assert {change.outcome for change in compare(before, after).changes} == {"same"}


def test_what_else_differs_is_said():
    before, after = result(), result()
    where = dataclasses.replace(
        after.environment, facts={**after.environment.facts, "board": "Big Board 9"}, governors=["powersave"]
    )
    after = dataclasses.replace(
        after, environment=where, setting=dataclasses.replace(after.setting, threads=2, repeats=9)
    )
    doubts = compare(before, after).doubts
    assert "measured in different ways: threads 4 and 2, repeats 5 and 9" in doubts
    assert "different machines: Small Board 5 and Big Board 9" in doubts
    assert any(doubt.startswith("different governors") for doubt in doubts)


def metered(joules, source="powercap RAPL: processor package"):
    """A run with three windows of each phase; 10 J at rest."""
    windows = [
        {"kind": "energy", "phase": phase, "tokens": tokens, "joules": value, "seconds": 5.0, "void": None}
        for phase, tokens, value in [("idle", 0, 10.0)] * 3 + [("decode", 100, joules)] * 3
    ]
    made = result()
    where = dataclasses.replace(made.environment, power_source=source)
    return dataclasses.replace(made, samples=made.samples + windows, environment=where)


def test_less_energy_is_better_and_what_is_lost_in_the_noise_is_left_out():
    changes = {change.name: change for change in compare(metered(40.0), metered(30.0)).changes}
    assert changes["energy_decode"].outcome == changes["net_energy_decode"].outcome == "better"
    assert changes["power_idle"].outcome == "same"
    names = {change.name for change in compare(metered(40.0), metered(9.0)).changes}
    assert "energy_decode" in names
    assert "net_energy_decode" not in names
    doubts = compare(metered(40.0), metered(40.0, "battery BAT0: whole device")).doubts
    assert "power from different sources: " in doubts[0]
    assert "RAPL: processor package and battery BAT0: whole device" in doubts[0]


def test_an_invalid_run_is_said():
    after = result(during={"throttle_flags": 4})
    assert any("second run is invalid: the firmware" in doubt for doubt in compare(result(), after).doubts)


def test_the_table_fits_and_the_limit_decides(files):
    before, same, slower = files
    done = run(before, slower, "--fail-over", "5")
    assert done.return_value == 3
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "prefill rate is worse by" in done.stderr
    assert run(before, slower, "--fail-over", "50").return_value == 0
    assert run(before, same, "--fail-over", "0").return_value == 0
    assert run(slower, before, "--fail-over", "0").return_value == 0


def test_json(files):
    found = json.loads(run(*files[::2], "--json").stdout)
    assert {change["name"]: change["outcome"] for change in found["changes"]}["ttft"] == "worse"


def test_a_file_that_is_no_result_is_named(tmp_path, files):
    (tmp_path / "x.json").write_text("{}")
    done = run(files[0], tmp_path / "x.json")
    assert "x.json: is no benchmark result" in str(done.exception)
