"""The local teacher on tiny random models: no sense in what they write, but all the machinery is real."""

from collections import Counter

import pytest
import torch
from scripted import rater, recipe
from tiny import tiny_model_folder

from toolkit.augment import augment, open_teachers
from toolkit.augment.local import LocalTeacher, room_for_answer
from toolkit.augment.sampling import NoCopying, Sampler
from toolkit.errors import TeacherError
from toolkit.models import load_model, load_tokenizer, resolve_model
from toolkit.tasks import load_task

MESSAGES = [{"role": "user", "content": "Write a title."}, {"role": "assistant", "content": "Title:"}]
SHOT = [
    {"role": "user", "content": "Write a title."},
    {"role": "assistant", "content": "Title: tea and toast"},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return resolve_model(str(tiny_model_folder(tmp_path_factory.mktemp("models"))))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base)


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(base)


def local(model, tokenizer, **options):
    return LocalTeacher(model, tokenizer, name="tiny", **({"max_new_tokens": 12} | options))


def texts(teacher, conversations, seeds):
    answers = dict(teacher.complete_many(conversations, seeds))
    assert sorted(answers) == list(range(len(conversations)))
    return [answers[index].text for index in range(len(conversations))]


def test_the_same_seed_writes_the_same_and_another_something_else(model, tokenizer):
    teacher = local(model, tokenizer)
    one, again, other = (teacher.complete(MESSAGES, seed=seed) for seed in (5, 5, 6))
    assert one == again
    assert one.text != other.text
    assert 0 < one.completion_tokens <= 12
    assert one.prompt_tokens > 10


def test_an_answer_does_not_depend_on_its_neighbours(model, tokenizer):
    conversations = [MESSAGES, SHOT + MESSAGES, SHOT * 3 + MESSAGES, MESSAGES, SHOT + MESSAGES]
    seeds = [1, 2, 3, 4, 5]
    alone = [
        local(model, tokenizer).complete(each, seed=seed).text
        for each, seed in zip(conversations, seeds, strict=True)
    ]
    assert texts(local(model, tokenizer, batch_size=2), conversations, seeds) == alone
    assert texts(local(model, tokenizer, batch_size=8), conversations, seeds) == alone


def test_temperature_0_is_greedy(model, tokenizer):
    teacher = local(model, tokenizer, temperature=0)
    assert teacher.complete(MESSAGES, seed=1).text == teacher.complete(MESSAGES, seed=2).text


def test_training_flags_and_the_callers_random_state_are_left_alone(model, tokenizer):
    layers = list(model.model.layers)
    model.eval()
    layers[1].train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    try:
        local(model, tokenizer).complete(MESSAGES, seed=1)
        assert torch.equal(torch.rand(1), expected)
        assert (model.training, layers[0].training, layers[1].training) == (False, False, True)
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("fault", "raised", "said"),
    [
        (RuntimeError("can't allocate memory: 8 GB"), TeacherError, "tiny: there is not enough memory for 1"),
        (RuntimeError("shapes differ"), RuntimeError, "shapes differ"),
    ],
)
def test_training_flags_come_back_after_an_error(model, tokenizer, monkeypatch, fault, raised, said):
    def broken(*arguments, **options):
        raise fault

    model.train()
    try:
        monkeypatch.setattr(model, "generate", broken)
        with pytest.raises(raised, match=said):
            local(model, tokenizer).complete(MESSAGES, seed=1)
        assert all(module.training for module in model.modules())
    finally:
        model.eval()


def test_shots_that_do_not_fit_the_context_are_left_out_oldest_first(model, tokenizer):
    teacher = local(model, tokenizer)
    answer = teacher.complete(SHOT * 30 + MESSAGES, seed=1)
    assert answer.notes == (
        "some shots were left out of requests, because the teacher's context has no room for them",
    )
    assert answer.prompt_tokens <= 512 - 12


def test_a_request_that_cannot_fit_is_an_error(model, tokenizer):
    long = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(TeacherError, match=r"tiny: a request of \d+ tokens does not fit its context of 512"):
        local(model, tokenizer).complete(long, seed=1)


def test_a_tokenizer_without_a_template_gets_plain_text(model, base):
    plain = load_tokenizer(base)
    plain.chat_template = None
    assert local(model, plain).complete(SHOT + MESSAGES, seed=1).text
    assert "template" not in plain.decode(local(model, plain)._encode(SHOT + MESSAGES))
    assert plain.decode(local(model, plain)._encode(SHOT + MESSAGES)).endswith(
        "Write a title.\n\nTitle: tea and toast\n\nWrite a title.\n\nTitle:"
    )


def test_a_template_is_left_open_where_the_assistants_words_end(model, tokenizer):
    prompt = tokenizer.decode(local(model, tokenizer)._encode(MESSAGES))
    assert prompt.endswith("<|im_start|>assistant\nTitle:")
    asked = tokenizer.decode(local(model, tokenizer)._encode(MESSAGES[:1]))
    assert asked.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_other_architectures(tmp_path, arch):
    other = resolve_model(str(tiny_model_folder(tmp_path, arch)))
    teacher = local(load_model(other), load_tokenizer(other))
    conversations = [MESSAGES, SHOT + MESSAGES]
    assert texts(teacher, conversations, [1, 2]) == [
        teacher.complete(each, seed=n).text for n, each in enumerate(conversations, 1)
    ]


def test_a_whole_augmentation_with_the_base_model(base):
    profile = rater()
    settings = recipe(max_requests=1)
    done = augment(
        profile,
        load_task("lamp-3"),
        open_teachers(settings, base=base, history=profile.history),
        settings,
        seed=0,
    )
    assert (done.asked, done.answered, done.requests) == (2, 2, 2)
    assert done.teacher.startswith(base.source)
    assert len(done.kept) + sum(done.dropped.values()) == 2
    again = augment(
        profile,
        load_task("lamp-3"),
        open_teachers(settings, base=base, history=profile.history),
        settings,
        seed=0,
    )
    assert again == done


def test_local_source_names_another_model(base):
    settings = recipe(teacher=f"local:{base.folder}")
    assert open_teachers(settings)[0].name == f"{base.folder} ({base.sha256[:12]})"


def test_room_for_the_longest_answer(tokenizer):
    short, long = room_for_answer((), tokenizer), room_for_answer(rater().history, tokenizer)
    assert short == 64
    longest = max(len(tokenizer(f"{each.output}\n{each.input}")["input_ids"]) for each in rater().history)
    assert long == max(64, longest * 5 // 4 + 24)


def test_the_sampler_draws_from_the_softmax():
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = chances.log().repeat(1, 1)
    draw = Sampler([3], 1.0, 1.0)
    counts = Counter(int(draw(None, logits).argmax()) for _ in range(4000))
    assert all(abs(counts[token] / 4000 - chance) < 0.03 for token, chance in enumerate(chances.tolist()))
    nucleus = Sampler([3], 1.0, 0.9)
    assert {int(nucleus(None, logits).argmax()) for _ in range(500)} == {0, 1, 2}
    cold = Sampler([3], 0.05, 1.0)
    assert {int(cold(None, logits).argmax()) for _ in range(200)} == {0}


def test_the_sampler_never_draws_a_forbidden_token():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]])
    assert int(Sampler([1], 1.0, 0.1)(None, logits).argmax()) == 1


def test_a_run_that_one_shot_holds_is_not_recited_but_a_habit_is():
    recited, habit = [10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24, 25]
    prompt = [*recited, 1, *habit, 2, *habit, 3]
    for start, banned in ((recited, True), (habit, False)):
        row = [*prompt, *start[:-1]]
        scores = NoCopying(len(prompt))(torch.tensor([row]), torch.zeros(1, 40))
        assert bool(torch.isinf(scores[0, start[-1]])) is banned
        assert int(torch.isinf(scores).sum()) == banned


def test_an_answer_does_not_go_round_in_circles():
    circle = [5, 6, 7, 8, 9, 4]
    stop_circling, row = NoCopying(3), [1, 2, 3]
    banned = []
    for token in circle * 3:
        scores = stop_circling(torch.tensor([row]), torch.zeros(1, 40))
        banned.append(bool(torch.isinf(scores[0, token])))
        row.append(token)
    assert not any(banned[:12])
    assert banned[17]


def test_a_local_teacher_that_follows_instructions_has_room_for_all_examples(base):
    history = rater().history
    alone, together = (
        open_teachers(recipe(style=style, examples_per_request=3), base=base, history=history)[0]
        for style in (None, "instruction")
    )
    assert (alone.style, together.style) == ("pattern", "instruction")
    asked = [{"role": "user", "content": "Go on."}]
    room = room_for_answer(history, load_tokenizer(base))
    assert alone.complete(asked, seed=1).completion_tokens <= room
    assert room < together.complete(asked, seed=1).completion_tokens <= 3 * room
