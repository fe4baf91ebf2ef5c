"""Selection as a whole: what is kept, in which order it is judged, and what the account says."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from scripted import ScriptedTeacher, rater, recipe, writer
from test_augment_run import rewrites
from tiny import tiny_base
from toy import PROFILE, RECIPE, TASK, examples

from toolkit.augment import augment, read_augmentation, write_augmentation
from toolkit.augment.selection import MODEL_FILTERS, Learner, candidates_for, open_selection
from toolkit.augment.selection.embedding import open_embedder
from toolkit.augment.selection.select import select
from toolkit.errors import EdgePLMError, RecipeError
from toolkit.finetune import adapter_folder, finetune, open_chat, read_finetuning
from toolkit.finetune.encode import encode_history
from toolkit.finetune.scoring import Watch, example_losses, mean_loss
from toolkit.models import load_model
from toolkit.profiles import Example, Profile
from toolkit.recipe import AugmentRecipe
from toolkit.recipe_select import SelectRecipe
from toolkit.tasks import load_task

pytestmark = pytest.mark.usefixtures("one_thread")
NOUNS = ("kettle", "ladder", "carpet", "window", "basket", "hammer", "blanket", "mirror", "pillow", "bucket")
VERBS = ("bring", "carry", "return", "clean", "sell")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("base"))


def bo(count=50):
    """Messages and the same in one manner."""
    history = tuple(
        Example(f"h{number}", f"Please {verb} the {noun} today.", f"oi / {noun} / {verb} / ta")
        for number, (noun, verb) in enumerate((noun, verb) for verb in VERBS for noun in NOUNS)
    )
    return Profile("bo", "rewrite", history[:count], (Example("q", "Please fold the towel.", "SECRET"),))


def candidates():
    """Ten good ones, and one of each kind that is refused."""
    good = [
        Example(f"s{number}", f"Please {verb} the {noun} today.", f"oi / {noun} / {verb} / ta")
        for number, (verb, noun) in enumerate(
            (verb, noun)
            for verb in ("wash", "hide")
            for noun in ("shovel", "curtain", "lantern", "fiddle", "saw")
        )
    ]
    twice = Example("twice", good[0].input + " ", "oi / a shovel / wash / ta")
    formal = Example("formal", "Please grease the hinge.", "Dear Sir; I (hereby) ASK You: Grease It, Please!")
    return [*good[:5], twice, formal, *good[5:]]


def chosen(base, profile, new, wanted, learner=None, **changes):
    settings = SelectRecipe(**{"embedding": "base", "difficulty": 0, "max_ifd": None} | changes)
    learner = learner or Learner(base, profile, load_task(profile.task), RECIPE)
    return select(
        new, profile, learner.task, settings, wanted, embedder=open_embedder("base", base), learner=learner
    )


def test_it_keeps_the_order_and_accounts_for_all(base):
    new = candidates()
    found = chosen(base, bo(), new, 6)
    assert len(found.kept) == 6
    assert [each.id for each in found.kept] == [each.id for each in new if each in found.kept]
    refused = {each.example.id: each.filter for each in found.refused}
    assert refused["twice"] == "semantic_duplicate"
    assert refused["formal"] == "style"
    assert len(found.kept) + len(found.refused) == len(new) == found.account.candidates
    assert [step.filter for step in found.account.steps] == ["semantic_duplicate", "style", "distribution"]
    assert sum(step.refused for step in found.account.steps) == len(found.refused)
    assert found.account.before and found.account.after
    assert found.account.after.mmd2 < found.account.before.mmd2
    assert {kind: len(points) for kind, points in found.account.points.items()} == {
        "history": 50, "kept": 6, "refused": 6
    }  # fmt: skip
    assert chosen(base, bo(), new, 6) == found  # deterministic


def test_with_eight_examples_nothing_is_judged_that_cannot_be_and_the_report_says_so(base):
    new = candidates()[:5]
    found = chosen(base, bo(8), new, 6, difficulty=0.1)
    assert found.kept == tuple(new)
    idle = {step.filter: step.note for step in found.account.steps if not step.acts}
    assert idle["style"] == "8 history examples, and 19 are needed to judge by 0.05"
    assert idle["difficulty"] == "2 history examples held out of training, and 9 are needed to judge by 0.1"
    assert idle["distribution"] == "5 are left and 6 wanted: nothing to choose from"


def test_a_filter_refuses_no_more_than_it_may_and_the_worst_first(base):
    formal = [
        Example(f"f{number}", f"Please dust the {noun}.", f"Dear Sir; I ASK You: Dust The {noun.upper()}!")
        for number, noun in enumerate(NOUNS)
    ]
    found = chosen(base, bo(), formal, 10, most_refused=0.3, semantic_duplicate=1)
    (step,) = [step for step in found.account.steps if step.filter == "style"]
    assert (step.judged, step.refused) == (10, 3)
    assert step.note.endswith("; 10 of 10 were, and only the worst 3 are refused")


def test_no_candidates_is_no_fault(base):
    found = chosen(base, bo(), [], 6)
    assert found.kept == found.refused == ()
    assert found.account.before is None
    assert found.account.leakage is None


def test_labels_keep_the_persons_shares(base):
    profile = rater((10, 0, 0, 0, 10))
    new = [
        Example(
            f"s{number}", f"The {noun} arrived on {number} and I have kept it.", "1" if number < 6 else "5"
        )
        for number, noun in enumerate(NOUNS)
    ]
    found = chosen(base, profile, new, 8, style=0, agreement=0, semantic_duplicate=1)
    assert [each.output for each in found.kept].count("1") == 4
    assert [each.output for each in found.kept].count("5") == 4


def test_held_out_queries_never_change_the_choice(base):
    profile, new = bo(), candidates()
    other = replace(profile, queries=(Example("q", new[0].input, new[0].output),))
    one, two = chosen(base, profile, new, 6), chosen(base, other, new, 6)
    assert one.kept == two.kept
    assert two.account.leakage.highest > one.account.leakage.highest


def test_difficulty_and_following_are_measured_on_the_model_that_learns(base):
    profile = Profile("anna", TASK.name, examples("yes, yes", 40), PROFILE.queries)
    same = Example("same", "about the sea", "yes, yes")
    against = Example("against", "about the lamp", "never mind")
    learner = Learner(base, profile, TASK, replace(RECIPE, epochs=3))
    found = chosen(base, profile, [same, against], 2, learner, style=0, difficulty=0.1, max_ifd=5.0)
    assert [each.example.id for each in found.refused] == ["against"]
    assert found.refused[0].filter == "difficulty"
    scores = found.account.scores
    assert set(scores["same"]) == {"ifd", "difficulty", "confidence", "variability"}
    assert scores["same"]["confidence"] > scores["against"]["confidence"]
    assert scores["same"]["difficulty"] < 1 < scores["against"]["difficulty"]


def test_watching_changes_nothing_and_the_real_arm_is_taken_over(base, tmp_path):
    new = examples("no, no", 3, prefix="s")
    plain = finetune(base, PROFILE, TASK, RECIPE, tmp_path / "plain", synthetic=new, seed=3)
    watch = Watch(new)
    finetune(base, PROFILE, TASK, replace(RECIPE, choose="real"), tmp_path / "real", watch=watch, seed=3)
    taken = finetune(
        base, PROFILE, TASK, RECIPE, tmp_path / "taken", synthetic=new, done=tmp_path / "real", seed=3
    )
    assert taken == plain == read_finetuning(tmp_path / "taken")
    for name in ("real", "real+synthetic"):
        one, two = (
            load_file(adapter_folder(tmp_path / each, name) / "adapter_model.safetensors")
            for each in ("plain", "taken")
        )
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert {name: len(losses) for name, losses in watch.losses.items()} == {"s0": 4, "s1": 4, "s2": 4}
    assert len(watch.held_out) == 2
    # The losses of what is held out are those that the training itself reports.
    lengths = {each.id: len(open_chat(base).answer(each.output)) for each in PROFILE.history}
    total = sum(lengths[name] for name in watch.held_out)
    last = sum(losses[-1] * lengths[name] for name, losses in watch.held_out.items()) / total
    assert last == pytest.approx(plain.adapters[0].validation_losses[-1], rel=1e-4)


def test_single_losses_are_those_of_each_alone(base):
    model, chat = load_model(base), open_chat(base)
    encoded = encode_history(bo(6).history, load_task("rewrite"), chat, max_length=128).examples
    losses = example_losses(model, encoded, token_budget=200)
    alone = [mean_loss(model, [each], packed=False) for each in encoded]
    assert losses == pytest.approx(alone, rel=1e-4)
    assert example_losses(model, []) == []


def test_an_augmentation_with_a_choice_accounts_for_each_teacher_and_reads_back(base, tmp_path):
    teachers = [
        ScriptedTeacher(lambda messages, number: rewrites(2 * number), name="one"),
        ScriptedTeacher(lambda messages, number: rewrites(2 * number + 1), name="two"),
    ]
    profile, task = writer(), load_task("rewrite")
    settings = SelectRecipe(embedding="base", candidates=2, max_ifd=None, semantic_duplicate=1)
    choose = open_selection(profile, task, settings, 4, Learner(base, profile, task, RECIPE))
    assert candidates_for(4, settings) == 8
    done = augment(profile, task, teachers, recipe(examples=8), seed=1, choose=choose)
    assert len(done.kept) == 4
    assert done.dropped["distribution"] == 4
    assert set(MODEL_FILTERS) <= set(done.dropped)
    assert len(done.kept) + sum(done.dropped.values()) == done.answered
    assert sum(teacher.kept for teacher in done.teachers) == 4
    assert done.dropped_examples["distribution"][0]["reason"]
    write_augmentation(done, tmp_path / "made")
    assert read_augmentation(tmp_path / "made") == done
    report = tmp_path / "made" / "report.json"
    data = json.loads(report.read_text())
    data["selection"]["kept"] = "four"
    report.write_text(json.dumps(data))
    with pytest.raises(EdgePLMError, match=r"report\.json: field kept is 'four', expected int"):
        read_augmentation(tmp_path / "made")


def test_the_recipe_turns_it_off_and_refuses_what_it_cannot_do(base):
    off = SelectRecipe(enabled=False)
    profile = writer()
    assert open_selection(profile, TASK, off, 4, Learner(base, profile, TASK, RECIPE)) is None
    assert candidates_for(7, off) == 7
    assert candidates_for(24, SelectRecipe()) == 36
    with pytest.raises(RecipeError, match=r"select\.embedding.*accepted: base, or pypi:PACKAGE==VERSION"):
        AugmentRecipe.from_dict({"select": {"embedding": "minilm"}}, "here")
