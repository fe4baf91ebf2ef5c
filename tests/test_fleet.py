"""Plans, stores and workers of a fleet; all but Ray, which tests/test_fleet_ray.py starts."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet_people import write_people, write_recipe
from s3_server import BUCKET
from safetensors.torch import load_file

import toolkit.fleet.store as store_module
from toolkit.errors import EdgePLMError, ModelError, ProfileError
from toolkit.finetune import finetune
from toolkit.fleet.cost import Rates, fleet_cost
from toolkit.fleet.plan import batches, key_of, read_users, remaining
from toolkit.fleet.run import _open, _settings, run_fleet
from toolkit.fleet.store import RESULT, WEIGHTS, Store
from toolkit.fleet.worker import Job, Worker
from toolkit.models import BaseModel, resolve_model
from toolkit.progress import rate_text
from toolkit.recipe import Recipe, read_recipe, replace_fields
from toolkit.tasks import load_task

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = load_task("rewrite")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return read_recipe(write_recipe(tmp_path_factory.mktemp("fleet")))


@pytest.fixture(scope="module")
def base(recipe: Recipe) -> BaseModel:
    return resolve_model(recipe.model_source)


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def url(request: Any, tmp_path: Path) -> str:
    """Somewhere to keep things: a folder, URLs of two file systems that fsspec brings, and a real S3."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://{BUCKET}/{tmp_path.name}"
    return {
        "folder": str(tmp_path / "out"),
        "file": f"file://{tmp_path}/out",
        "memory": f"memory://{tmp_path.name}",
    }[request.param]


def adapter(folder: Path, content: str = "weights") -> Path:
    (folder / "real").mkdir(parents=True, exist_ok=True)
    (folder / "training.json").write_text("{}")
    (folder / "real" / "adapter_model.safetensors").write_text(content)
    return folder


def test_users_come_from_a_file_or_a_folder_of_them(tmp_path: Path) -> None:
    one = read_users(write_people(tmp_path / "one.jsonl", 5), TASK)
    assert [person.profile.user_id for person in one.people] == [f"user {n}" for n in range(5)]
    many = tmp_path / "many"
    for number in range(4):
        write_people(many / f"{number}.jsonl", 1, first=number)
    (many / "notes.txt").write_text("not a profile")
    found = read_users(many, TASK)
    assert [person.digest for person in found.people] == [person.digest for person in one.people[:4]]
    assert not found.failures


def test_one_bad_profile_is_named_and_the_others_stay(tmp_path: Path) -> None:
    found = read_users(write_people(tmp_path / "p.jsonl", 6, bad=(3,)), TASK)
    assert [person.key for person in found.people] == ["user 0", "user 1", "user 2", "user 4", "user 5"]
    (failure,) = found.failures
    assert failure.user_id == "user 3"
    assert "p.jsonl, line 17: 'output' is empty" in failure.reason


def test_one_bad_file_is_named_and_the_others_stay(tmp_path: Path) -> None:
    write_people(tmp_path / "many" / "a.jsonl", 1)
    (tmp_path / "many" / "b.jsonl").write_text("{broken\n")
    write_people(tmp_path / "many" / "c.jsonl", 2)
    found = read_users(tmp_path / "many", TASK)
    assert [person.key for person in found.people] == ["user 0", "user 1"]
    assert [failure.user_id for failure in found.failures] == ["b.jsonl", "user 0"]
    assert "is in another file too" in found.failures[1].reason


def test_nobody_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"holds nobody to train on, the first error being .*is empty"):
        read_users(write_people(tmp_path / "p.jsonl", 1, bad=(0,)), TASK)
    with pytest.raises(ProfileError, match="no such file"):
        read_users(tmp_path / "nowhere", TASK)


def test_batches_hold_like_lengths_and_everybody_once(tmp_path: Path) -> None:
    people = read_users(write_people(tmp_path / "p.jsonl", 11), TASK).people
    made = batches(people, 4)
    assert [len(batch) for batch in made] == [4, 4, 3]
    lengths = [len(person.profile.history) for batch in made for person in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(person.key for batch in made for person in batch) == sorted(p.key for p in people)


def test_a_changed_profile_is_trained_again(tmp_path: Path) -> None:
    people = read_users(write_people(tmp_path / "p.jsonl", 3), TASK).people
    done = {(person.key, person.digest) for person in people}
    assert remaining(people, done) == []
    changed = replace(people[1], digest="another")
    assert remaining([people[0], changed, people[2]], done) == [changed]


@pytest.mark.parametrize("user", ["Ann", "../up", ".hidden", "a/b\\c", "Żółć" * 40, " blank ", "a\nb", "x."])
def test_a_key_is_a_name_on_any_file_system(user: str) -> None:
    from exporters.adapters import check_name

    key = key_of(user)
    check_name(key)
    assert Path(key).name == key and key not in (".", "..")
    assert key_of(user + "2") != key


def test_what_is_put_is_done_and_comes_back(url: str, tmp_path: Path) -> None:
    other = "ann 2+=@,%C5%BB%2F"  # begins as the first one's, and has all that a key may hold
    store = Store(url)
    assert store.done() == set() and store.is_empty()
    store.put("ann", "0123", adapter(tmp_path / "new"), {"adapter": "real"})
    store.put(other, "4567", adapter(tmp_path / "new"), {"adapter": "real"})
    assert store.done() == {("ann", "0123"), (other, "4567")}
    assert Store(url).mark("ann", "0123") == {"adapter": "real"}
    fetched = store.fetch("ann", tmp_path / "copy")
    assert (fetched / "real" / "adapter_model.safetensors").read_text() == "weights"
    store.put("ann", "89ab", adapter(tmp_path / "newer", "others"), {})
    assert store.done() == {("ann", "89ab"), (other, "4567")}
    fetched = store.fetch("ann", tmp_path / "again")
    assert (fetched / "real" / "adapter_model.safetensors").read_text() == "others"
    assert not store.is_empty()
    store.clear()
    assert store.done() == set()


def test_a_folder_without_its_mark_is_not_done(url: str, tmp_path: Path, monkeypatch: Any) -> None:
    """As a worker that is killed in the middle leaves it."""
    store = Store(url)
    store.put("ann", "0123", adapter(tmp_path / "new"), {})

    def killed(*_arguments: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "write_atomic", killed)
    monkeypatch.setattr(store, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        store.put("ben", "4567", adapter(tmp_path / "new"), {})
    assert store.done() == {("ann", "0123")}


def test_two_drivers_on_one_output_are_refused(url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(store_module, "BEAT", 0.05)
    first, second = Store(url), Store(url)
    with first.held():
        with (
            pytest.raises(EdgePLMError, match=r"another fleet is writing into it.*Wait for it"),
            second.held(),
        ):
            pass
        assert first.is_empty()
    with second.held():  # and once it is over the output is free
        pass


def test_a_killed_driver_lets_go_of_a_folder_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, time; from toolkit.fleet.store import Store\n"
        "with Store(sys.argv[1]).held(): print('held', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout and child.stdout.readline() == "held\n"
    store = Store(str(tmp_path / "out"))
    with pytest.raises(EdgePLMError, match="another fleet"), store.held():
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    with store.held():
        pass


def test_a_driver_without_a_sign_of_life_is_forgotten(monkeypatch: Any) -> None:
    store = Store("memory://silent-driver")
    store.write("driver.json", {"driver": "x", "host": "h", "pid": 1, "time": time.time()})
    with pytest.raises(EdgePLMError, match=r"process 1 on h.*is forgotten after 90 s"), store.held():
        pass
    store.write("driver.json", {"driver": "x", "host": "h", "pid": 1, "time": time.time() - 100})
    with store.held():
        pass


def test_an_unknown_protocol_is_an_error() -> None:
    with pytest.raises(EdgePLMError, match=r"nowhere://x: cannot be opened .*Give a folder, or a URL"):
        Store("nowhere://x")


def test_an_output_goes_on_with_the_same_settings_only(
    recipe: Recipe, base: BaseModel, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "out"))
    settings = _settings(recipe, TASK, base)
    _open(store, settings, resume=False, force=False)
    _open(store, settings, resume=True, force=False)
    with pytest.raises(EdgePLMError, match=r"already exists\. Add --resume"):
        _open(store, settings, resume=False, force=False)
    other = _settings(replace_fields(recipe, {"finetune.rank": 2}), TASK, base)
    with pytest.raises(EdgePLMError, match=r"was made with another finetune\. Go on with the same recipe"):
        _open(store, other, resume=True, force=False)
    store.put("ann", "0123", adapter(tmp_path / "new"), {})
    _open(store, other, resume=False, force=True)
    assert store.done() == set()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(EdgePLMError, match="is not empty and no fleet's"):
        _open(Store(str(tmp_path / "mine")), settings, resume=False, force=False)


def test_force_clears_a_fleet_whole_and_nothing_else(recipe: Recipe, base: BaseModel, tmp_path: Path) -> None:
    """What is left of a training would go into the next one: its quantised base, say."""
    settings = _settings(recipe, TASK, base)
    mine = tmp_path / "mine" / "people" / "letter.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(EdgePLMError, match="is not empty and no fleet's"):
        _open(Store(str(tmp_path / "mine")), settings, resume=False, force=True)
    assert mine.read_text() == "mine"
    store = Store(str(tmp_path / "out"))
    _open(store, settings, resume=False, force=False)
    for name in (WEIGHTS, RESULT):
        store.write(name, {})
    (tmp_path / "out" / "fleet.json").write_text("{dam")
    with pytest.raises(EdgePLMError, match=r"is damaged .* Start anew with --force"):
        _open(store, settings, resume=True, force=False)
    _open(store, settings, resume=False, force=True)
    assert store.read_settings() and not store.has(WEIGHTS) and not store.has(RESULT)


def test_a_bundle_that_cannot_be_made_is_refused_before_training(recipe: Recipe, tmp_path: Path) -> None:
    people = write_people(tmp_path / "p.jsonl", 2)
    there = tmp_path / "bundles"
    there.mkdir()
    (there / "another.txt").write_text("mine")
    out = tmp_path / "out"
    with pytest.raises(EdgePLMError, match="bundles: already exists"):
        run_fleet(recipe, people, str(out), bundle="merged", bundle_out=there)
    with pytest.raises(EdgePLMError, match="bundles: already exists"):
        run_fleet(recipe, people, str(out), bundle="attached", bundle_out=there, resume=True)
    dora = replace_fields(recipe, {"finetune.dora": True})
    with pytest.raises(EdgePLMError, match=r"DoRA cannot be attached\. Choose --bundle merged"):
        run_fleet(dora, people, str(out), bundle="attached")
    with pytest.raises(EdgePLMError, match="needs a folder of this machine"):
        run_fleet(recipe, people, "memory://out", bundle="attached")
    assert not out.exists()


def test_a_worker_keeps_what_finetune_would_write(recipe: Recipe, base: BaseModel, tmp_path: Path) -> None:
    people = read_users(write_people(tmp_path / "p.jsonl", 3), TASK).people
    long = replace(people[0].profile, user_id="long", history=tuple(
        replace(example, output="yes " * 600) for example in people[0].profile.history
    ))  # fmt: skip
    batch = [*people, replace(people[0], key="long", profile=long)]
    job = Job(recipe.model_source, base.sha256, TASK, recipe.finetune, 0, str(tmp_path / "out"), 2)
    found = {done.user_id: done for done in Worker(job).run(batch)}
    assert "none of the" in (found.pop("long").error or "")
    assert all(done.error is None and done.bytes > 10_000 for done in found.values())
    store = Store(job.out)
    assert store.done() == {(person.key, person.digest) for person in people}
    for person in people:
        finetune(base, person.profile, TASK, recipe.finetune, tmp_path / "alone", force=True)
        one, two = (
            load_file(folder / "real" / "adapter_model.safetensors")
            for folder in (tmp_path / "alone", store.fetch(person.key, tmp_path))
        )
        assert all(float((one[name] - two[name]).abs().max()) < 1e-5 for name in one)
        mark = store.mark(person.key, person.digest)
        assert (mark["user_id"], mark["adapter"]) == (person.profile.user_id, "real")
    assert json.loads((store.fetch("user 0", tmp_path) / "training.json").read_text())["chosen"] == "real"


def test_a_worker_with_other_weights_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    job = Job(recipe.model_source, "0" * 64, TASK, recipe.finetune, 0, str(tmp_path / "out"), 2)
    with pytest.raises(ModelError, match="has other weights on this worker than on the driver"):
        Worker(job)


def test_the_cost_of_a_fleet_is_its_formula() -> None:
    rates = Rates(
        person_seconds=36,
        merged_seconds=72,
        folder_bytes=10,
        attached_bytes=2,
        merged_bytes=50,
        base_bytes=40,
    )
    cost = fleet_cost(1000, 4, rates)
    assert (cost.worker_hours, cost.hours, cost.merged_worker_hours) == (10, 2.5, 20)
    assert (cost.stored_bytes, cost.attached_bytes, cost.merged_bytes) == (10_000, 2_040, 50_000)
    assert cost.attached_to_devices == 42_000
    assert cost.upload_bits == pytest.approx(8 * 10_000 / 9000)


def test_the_page_says_what_the_formula_gives() -> None:
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    given = {
        name: float(re.search(rf"^    {name}=([\d_]+),", page, re.MULTILINE)[1])  # type: ignore[index]
        for name in (field.name for field in dataclasses.fields(Rates))
    }
    cost = fleet_cost(1_000_000, 1000, Rates(**given))
    for said in (
        f"{cost.worker_hours:,.0f} worker-hours",
        f"{cost.hours:.1f} hours",
        f"{cost.stored_bytes / 1e12:.1f} TB",
        f"{cost.upload_bits / 1e9:.1f} Gbit/s",
        f"{cost.attached_bytes / 1e12:.1f} TB",
        f"{cost.attached_to_devices / 1e12:.0f} TB",
        f"{cost.merged_worker_hours:,.0f} worker-hours",
        f"{cost.merged_bytes / 1e12:.0f} TB",
    ):
        assert f"| {said} |" in page, said


def test_throughput_is_told_in_a_unit_that_suits_it() -> None:
    assert rate_text(30, 2.0, "steps") == "15.0 steps/s"
    assert rate_text(3, 30.0, "people") == "360 people/h"
    assert rate_text(3, 0.0, "people") == rate_text(3, 30.0, "") == ""
