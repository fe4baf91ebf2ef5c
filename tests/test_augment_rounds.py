"""Rounds that aim at what the current adapter gets wrong."""

import json
from dataclasses import replace

import pytest
from scripted import ScriptedTeacher, json_lines, rater, recipe, writer
from teacher_server import completion
from tiny import tiny_base

from toolkit.augment import augment, first_requests, read_augmentation, write_augmentation, write_synthetic
from toolkit.augment.failures import FailureFinder, Failures, failures_of
from toolkit.augment.plan import Planner
from toolkit.augment.selection import Learner
from toolkit.errors import RecipeError
from toolkit.profiles import Example
from toolkit.recipe import AugmentRecipe, FinetuneRecipe, Recipe
from toolkit.recipe_select import SelectRecipe
from toolkit.tasks import load_task

RATING, REWRITE = load_task("lamp-3"), load_task("rewrite")
THINGS = [
    "barrel",
    "candle",
    "dresser",
    "envelope",
    "fiddle",
    "gate",
    "hammock",
    "inkwell",
    "jug",
    "kite",
    "loom",
    "mirror",
    "needle",
    "oar",
    "quilt",
]
TRAINING = FinetuneRecipe(epochs=2, learning_rate=0.02, validation=0.25)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("model"))


def reviews(messages, number):
    """An example for each label that was asked for, each about something else."""
    order = messages[0]["content"].split("in this order: ")[1].split(". Write")[0]
    named = [
        (THINGS[(2 * number + place) % len(THINGS)], label)
        for place, label in enumerate(json.loads(f"[{order}]"))
    ]
    return json_lines(
        *((f"{thing.title()} bought in {thing} street, {thing} and all.", label) for thing, label in named)
    )


def test_later_rounds_show_the_failures_and_ask_for_their_labels():
    teacher = ScriptedTeacher(reviews)
    kept_before = []

    def find(kept):
        kept_before.append(len(kept))
        return Failures((0, 1), wrong=3, confusions=(("1", "5", 2), ("1", "4", 1)))

    settings = recipe(examples=8, rounds=3, max_requests=8, shots=5)
    done = augment(rater(), RATING, teacher, settings, seed=1, find_failures=find)
    assert kept_before == [4, 6]
    assert [(each.kept, each.shown, each.wrong) for each in done.rounds] == [
        (4, 0, None),
        (2, 2, 3),
        (2, 2, 3),
    ]
    for name in ("asked", "answered", "kept"):
        total = len(done.kept) if name == "kept" else getattr(done, name)
        assert sum(getattr(each, name) for each in done.rounds) == total
    # The first four have the person's own labels, the others those of the failures (both are 1s).
    assert sorted(example.output for example in done.kept[:4]) == ["1", "4", "5", "5"]
    assert [example.output for example in done.kept[4:]] == ["1"] * 4
    first, last = teacher.asked[0][0][0]["content"], teacher.asked[-1][0][0]["content"]
    history = rater().history
    assert sum(json.dumps(example.input) in first for example in history) == 5
    assert [example.id for example in history if json.dumps(example.input) in last] == ["h0", "h1"]
    assert '"5" in place of "1" (2 times); "4" in place of "1" (1 times)' in last
    assert "does worst" not in first and "q1" not in teacher.everything()


def test_one_round_is_as_it_was_and_needs_no_adapter():
    found = augment(rater(), RATING, ScriptedTeacher(reviews), recipe(), seed=1)
    assert [(each.kept, each.shown) for each in found.rounds] == [(4, 0)]


SIZES = [
    (8, 1, 0.5, [8]),
    (8, 2, 0.5, [4, 4]),
    (9, 3, 0.5, [5, 2, 2]),
    (8, 4, 0.9, [1, 3, 2, 2]),
    (1, 3, 0.9, [1]),
    (0, 3, 0.5, []),
]


@pytest.mark.parametrize(("wanted", "rounds", "share", "sizes"), SIZES)
def test_failures_never_get_more_than_their_share(wanted, rounds, share, sizes):
    settings = recipe(examples=wanted, failure_share=share)
    assert Planner(rater(), RATING, settings, 0, [("instruction", False)]).rounds(rounds) == sizes


def test_a_round_that_is_answered_badly_leaves_the_others_their_requests():
    def bad_at_first(messages, number):
        return "nothing" if "does worst" not in messages[0]["content"] else reviews(messages, number)

    settings = recipe(examples=8, rounds=2, max_requests=8)
    teacher = ScriptedTeacher(bad_at_first)
    done = augment(rater(), RATING, teacher, settings, seed=1, find_failures=lambda kept: Failures((0, 1)))
    assert [each.kept for each in done.rounds] == [0, 4]
    assert len(teacher.asked) == 4 + 2


def test_a_small_teacher_goes_on_with_the_failures():
    asked = []

    def script(messages, number):
        asked.append(messages)
        return f" A new object, the {number}th, arrived and works well."

    settings = recipe(examples=4, rounds=2, max_requests=8, shots=2, examples_per_request=1)
    augment(
        rater(), RATING, ScriptedTeacher(script, "pattern"), settings, seed=1,
        find_failures=lambda kept: Failures((0, 3)),
    )  # fmt: skip
    history = rater().history
    for messages in asked[-2:]:
        shown = [each for each in history if any(each.input in turn["content"] for turn in messages)]
        label = messages[-1]["content"].split("\n")[0].removeprefix("Score: ")
        assert (history[0] if label == "1" else history[3]) in shown
        assert len(shown) == 2 and all(each.output == label for each in shown)


def test_the_hardest_quarter_is_the_wrong_answers_first():
    places, outputs = list(range(8)), ["1", "1", "2", "2", "5", "5", "5", "5"]
    losses = [9.0, 0.1, 0.2, 0.3, 8.0, 7.0, 0.1, 0.1]
    found = failures_of(places, outputs, losses, ["1", "1", "1", "1", "5", "5", "5", "nonsense"], RATING)
    assert found == Failures((3, 2), wrong=3, confusions=(("2", "1", 2),))
    free = failures_of(places, outputs, losses, [], REWRITE)
    assert free == Failures((0, 4))
    assert failures_of([4], ["1"], [1.0], ["1"], RATING) == Failures((4,), wrong=0)


def test_failures_are_found_by_a_trained_adapter_among_what_it_was_trained_on(base, tmp_path):
    from toolkit.finetune import split_history

    profile = rater((6, 0, 0, 4, 10))
    training, _ = split_history(profile.history, TRAINING.validation, 3)
    learner = Learner(base, profile, RATING, TRAINING, 3)
    find = FailureFinder(learner, path=tmp_path / "rounds.jsonl")
    found = find(())
    assert len(found.places) == round(0.25 * len(training))
    assert max(found.places) < len(training)
    assert found.wrong is not None and 0 <= found.wrong <= len(training)
    other = find((Example("s1", "The loom number 77 arrived and I have kept it.", "5"),) * 8)
    assert (tmp_path / "rounds.jsonl").read_text().count("\n") == 2
    assert found != other


def finder(base, path, seed=0):
    return FailureFinder(Learner(base, writer(), REWRITE, TRAINING, seed), path=path)


def test_what_was_found_is_read_back_and_nothing_is_trained_again(base, tmp_path, monkeypatch):
    from toolkit.finetune import trial

    path = tmp_path / "rounds.jsonl"
    found = finder(base, path)(())
    with path.open("a") as file:
        file.write('{"key": "torn')
    monkeypatch.setattr(trial.Trials, "train", lambda *arguments, **options: pytest.fail("trained"))
    assert finder(base, path)(()) == found
    with pytest.raises(pytest.fail.Exception):
        finder(base, path, seed=1)(())


def test_a_killed_run_repeats_no_request_in_any_round(serve, base, tmp_path):
    things = iter(["barrel", "candle", "dresser", "envelope", "fiddle", "gate", "hammock", "inkwell"])

    def script(number, body):
        if number == 6 and not killed:
            killed.append(number)
            return 401, {"error": {"message": "no"}}
        thing = next(things)
        return completion(json_lines((f"Could you carry that {thing} upstairs?", f"oi / {thing} / up / ta")))

    killed: list[int] = []
    server = serve(script)
    settings = AugmentRecipe(
        teacher=server.url, model="m", examples=6, ratio=2, rounds=2, examples_per_request=1, concurrency=1,
        max_requests=12, hide=("nothing",), near_duplicate=0.95, select=SelectRecipe(enabled=False),
    )  # fmt: skip
    whole = Recipe(task="rewrite", profile="p", augment=settings, finetune=TRAINING)
    paths = {"answers_path": tmp_path / "a.jsonl", "audit_path": tmp_path / "audit.jsonl"}
    cut = write_synthetic(writer(), REWRITE, whole, base, **paths)
    assert cut.stopped and len(cut.kept) < 6
    done = write_synthetic(writer(), REWRITE, whole, base, **paths)
    assert done.stopped is None
    assert [each.kept for each in done.rounds] == [3, 3]
    assert done.reused == cut.requests
    assert len({*server.raw}) == len(server.raw) - len(killed)
    late = json.loads(server.raw[-1])["messages"][0]["content"]
    assert "does worst" in late and "Could you carry" not in late
    write_augmentation(done, tmp_path)
    assert read_augmentation(tmp_path) == done


def test_a_look_beforehand_shows_the_first_round():
    settings = recipe(examples=8, rounds=2, max_requests=8)
    teacher = ScriptedTeacher(reviews)
    augment(rater(), RATING, teacher, settings, seed=1, find_failures=lambda kept: Failures((0, 1)))
    looked = first_requests(rater(), RATING, settings, style="instruction", seed=1)
    assert [list(each) for each in looked] == [messages for messages, _ in teacher.asked[: len(looked)]]


def test_how_many_are_wanted_is_a_ratio_with_a_cap():
    settings = AugmentRecipe()
    assert [settings.wanted(real) for real in (1, 30, 100, 1000)] == [1, 30, 100, 100]
    assert replace(settings, ratio=0.5).wanted(37) == 18
    assert replace(settings, ratio=0.01).wanted(7) == 1
    assert replace(settings, ratio=0).wanted(7) == replace(settings, enabled=False).wanted(7) == 0
    assert (settings.most_requests(30), replace(settings, max_requests=5).most_requests(30)) == (32, 5)
    for wrong in ({"ratio": -1}, {"rounds": 0}, {"failure_share": 1}, {"failure_share": 0}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            AugmentRecipe(**wrong)
