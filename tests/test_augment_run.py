import json

import pytest
from scripted import ScriptedTeacher, failure, json_lines, rater, recipe, writer

from toolkit.augment import (
    Completion,
    augment,
    first_requests,
    open_teachers,
    read_augmentation,
    write_augmentation,
)
from toolkit.errors import EdgePLMError, TeacherError
from toolkit.tasks import load_task

RATING, REWRITE = load_task("lamp-3"), load_task("rewrite")
NOUNS = [
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
]


def rewrites(number, each=2):
    """The good answer to the request of this number."""
    words = [NOUNS[(number * each + place) % len(NOUNS)] for place in range(each)]
    return json_lines(
        *((f"Could you carry that {word} upstairs?", f"oi / {word} / upstairs / ta") for word in words)
    )


def good_teacher(**options):
    return ScriptedTeacher(lambda messages, number: rewrites(number), **options)


def test_it_stops_at_enough_examples_and_accounts_for_all():
    teacher = good_teacher()
    done = augment(writer(), REWRITE, teacher, recipe(examples=3), seed=1)
    assert [example.id for example in done.kept] == ["synthetic-0001", "synthetic-0002", "synthetic-0003"]
    assert done.kept[0].output == "oi / dresser / upstairs / ta"
    assert (done.asked, done.answered, done.requests) == (4, 4, 2)
    assert len(teacher.asked) == 2
    assert done.dropped["surplus"] == 1
    assert len(done.kept) + sum(done.dropped.values()) == done.answered
    assert done.dropped_examples["surplus"][0]["reason"] == "there are enough examples"
    assert (done.prompt_tokens, done.completion_tokens) == (20, 10)
    assert (done.teacher, done.stopped, done.notes) == ("scripted", None, ())
    assert done.survival == 0.75


def test_it_stops_when_the_requests_are_spent():
    teacher = ScriptedTeacher(lambda messages, number: "no")
    done = augment(writer(), REWRITE, teacher, recipe(max_requests=5), seed=1)
    assert len(teacher.asked) == 5
    assert done.kept == ()
    assert done.dropped["format"] == 5
    assert len(done.dropped_examples["format"]) == 3
    assert done.stopped is None
    assert done.notes == ("max_requests (5) were spent with 0 of 4 examples kept",)


def test_only_the_history_reaches_the_teacher():
    teacher = good_teacher()
    augment(writer(), REWRITE, teacher, recipe(examples=8, shots=8), seed=1)
    said = teacher.everything()
    assert "Please bring the kettle on day 0." in said
    assert "SECRET GOLD" not in said
    assert "ladder" not in said


def test_a_held_out_query_that_comes_back_is_counted_apart():
    leak = json_lines(("Kindly, please return the ladder to my shed.", "oi / ladder / shed / ta"))
    done = augment(writer(), REWRITE, ScriptedTeacher(lambda *_: leak), recipe(max_requests=1), seed=0)
    assert done.dropped["held_out"] == 1
    assert "held-out" in done.dropped_examples["held_out"][0]["reason"]


def test_the_label_distribution_is_the_persons_own():
    nouns = iter(
        f"{colour} {noun}" for noun in NOUNS for colour in ("green", "rusty", "Dutch", "second-hand")
    )

    def always_one_more_five(messages, number):
        order = messages[-1]["content"].split("in this order: ")[1].split(". Write each")[0]
        labels = [*json.loads(f"[{order}]"), "5"]
        return json_lines(*((f"The {next(nouns)} came, and I have kept it.", label) for label in labels))

    settings = recipe(examples=10, examples_per_request=3, max_requests=10, near_duplicate=1.0)
    done = augment(rater((3, 0, 0, 2, 5)), RATING, ScriptedTeacher(always_one_more_five), settings, seed=0)
    outputs = [example.output for example in done.kept]
    assert {label: outputs.count(label) for label in set(outputs)} == {"1": 3, "4": 2, "5": 5}
    assert done.dropped["surplus"] > 0


def test_a_pattern_teacher_goes_on_with_the_persons_examples():
    nouns = iter(
        f"{colour} {noun}" for noun in NOUNS for colour in ("green", "rusty", "Dutch", "second-hand")
    )
    teacher = ScriptedTeacher(
        lambda messages, number: f" {next(nouns)} came and I have it still.\nScore: 2\nText: And so",
        style="pattern",
    )
    settings = recipe(examples=5, near_duplicate=1.0)
    done = augment(rater((3, 0, 0, 2, 5)), RATING, teacher, settings, seed=0)
    assert sorted(example.output for example in done.kept) == ["1", "4", "5", "5", "5"]
    assert all(example.input.endswith("came and I have it still.") for example in done.kept)
    assert all(messages[-1]["role"] == "assistant" for messages, _ in teacher.asked)
    assert len({seed for _, seed in teacher.asked}) == len(teacher.asked)


def test_the_same_seed_asks_the_same():
    one, again, other = good_teacher(), good_teacher(), good_teacher()
    for teacher, seed in ((one, 1), (again, 1), (other, 2)):
        augment(writer(), REWRITE, teacher, recipe(), seed=seed)
    assert one.asked == again.asked
    assert one.asked != other.asked


def test_a_look_beforehand_shows_what_is_then_sent():
    teacher = good_teacher()
    shown = first_requests(writer(), REWRITE, recipe(), style="instruction", seed=4)
    augment(writer(), REWRITE, teacher, recipe(), seed=4)
    assert [list(messages) for messages in shown] == [messages for messages, _ in teacher.asked]


def test_a_run_that_was_cut_goes_on_without_asking_again(tmp_path):
    answers = tmp_path / "run" / "answers.jsonl"
    settings = recipe(examples=10, max_requests=8)
    whole = augment(writer(), REWRITE, good_teacher(), settings, seed=1)

    class Cut(BaseException):
        pass

    def cut_at_the_third(messages, number):
        if number == 3:
            raise Cut
        return rewrites(number)

    with pytest.raises(Cut):
        augment(writer(), REWRITE, ScriptedTeacher(cut_at_the_third), settings, seed=1, answers_path=answers)
    assert len(answers.read_text().splitlines()) == 2

    rest = ScriptedTeacher(lambda messages, number: rewrites(number + 2))
    resumed = augment(writer(), REWRITE, rest, settings, seed=1, answers_path=answers)
    assert resumed.kept == whole.kept
    assert (resumed.requests, resumed.reused) == (whole.requests, 2)
    assert len(rest.asked) == whole.requests - 2
    assert resumed.prompt_tokens == whole.prompt_tokens

    silent = ScriptedTeacher(lambda *_: pytest.fail("asked again"))
    assert augment(writer(), REWRITE, silent, settings, seed=1, answers_path=answers).kept == whole.kept


def test_a_torn_last_line_is_asked_again_and_harms_no_other(tmp_path):
    answers = tmp_path / "answers.jsonl"
    settings = recipe(examples=4)
    first = augment(writer(), REWRITE, good_teacher(), settings, seed=1, answers_path=answers)
    answers.write_bytes(answers.read_bytes()[:-9])
    teacher = ScriptedTeacher(lambda messages, number: rewrites(2))
    assert augment(writer(), REWRITE, teacher, settings, seed=1, answers_path=answers).kept == first.kept
    assert len(teacher.asked) == 1
    silent = ScriptedTeacher(lambda *_: pytest.fail("asked again"))
    assert augment(writer(), REWRITE, silent, settings, seed=1, answers_path=answers).reused == 2


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"null", b'{"key": "a"}', b'{"key": "a", "text": 1}', b"{"]
)
def test_unreadable_lines_of_the_answers_file_count_as_not_there(tmp_path, line):
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(line + b"\n")
    done = augment(writer(), REWRITE, good_teacher(), recipe(), seed=1, answers_path=answers)
    assert len(done.kept) == 4


def test_another_seed_temperature_or_teacher_is_another_request(tmp_path):
    answers = tmp_path / "answers.jsonl"
    augment(writer(), REWRITE, good_teacher(), recipe(), seed=1, answers_path=answers)
    for seed, settings, name in (
        (2, recipe(), "scripted"),
        (1, recipe(temperature=0.1), "scripted"),
        (1, recipe(), "b"),
    ):
        teacher = good_teacher(name=name)
        done = augment(writer(), REWRITE, teacher, settings, seed=seed, answers_path=answers)
        assert (done.reused, len(teacher.asked)) == (0, 2)


def test_every_answer_is_on_disk_before_the_next_is_used(tmp_path):
    answers = tmp_path / "answers.jsonl"

    def count_lines(messages, number):
        written = answers.read_text().splitlines() if answers.exists() else []
        assert len(written) == number - 1
        return rewrites(number)

    augment(writer(), REWRITE, ScriptedTeacher(count_lines), recipe(), seed=1, answers_path=answers)


def test_a_teacher_that_fails_midway_keeps_what_was_good(tmp_path):
    teacher = ScriptedTeacher(lambda messages, number: failure() if number == 3 else rewrites(number))
    settings = recipe(examples=10, max_requests=8)
    done = augment(writer(), REWRITE, teacher, settings, seed=1, answers_path=tmp_path / "answers.jsonl")
    assert len(done.kept) == 4
    assert done.stopped == "scripted: cannot be reached. Try again later"
    assert (done.requests, done.answered, len(teacher.asked)) == (2, 4, 3)
    repaired = ScriptedTeacher(lambda messages, number: rewrites(number + 2))
    done = augment(writer(), REWRITE, repaired, settings, seed=1, answers_path=tmp_path / "answers.jsonl")
    assert done.stopped is None
    assert done.reused == 2
    assert len(done.kept) == 10


def test_a_teacher_that_never_answers_is_an_error():
    with pytest.raises(TeacherError, match=r"scripted: cannot be reached\. Try again later"):
        augment(writer(), REWRITE, ScriptedTeacher(lambda *_: failure()), recipe(), seed=1)


def test_no_examples_wanted_means_no_request():
    teacher = ScriptedTeacher(lambda *_: pytest.fail("asked"))
    assert augment(writer(), REWRITE, teacher, recipe(examples=0), seed=1).kept == ()


def test_notes_of_answers_are_reported_once():
    teacher = ScriptedTeacher(lambda messages, number: Completion(rewrites(number), 1, 1, notes=("no seed",)))
    assert augment(writer(), REWRITE, teacher, recipe(), seed=1).notes == ("no seed",)


def test_a_task_whose_history_has_outputs_only():
    from toolkit.profiles import Example, Profile

    tweets = tuple(
        Example(str(n), "", f"the {noun} again. why is it always the {noun}") for n, noun in enumerate(NOUNS)
    )
    profile = Profile(
        "t", "lamp-7", tweets, (Example("q", "The weather is bad today again.", "rain. of course"),)
    )
    teacher = ScriptedTeacher(lambda *_: '{"output": "my cat has opinions about the moon"}')
    done = augment(profile, load_task("lamp-7"), teacher, recipe(examples=1), seed=0)
    assert [(example.input, example.output) for example in done.kept] == [
        ("", "my cat has opinions about the moon")
    ]


def test_write_and_read_back(tmp_path):
    teacher = ScriptedTeacher(
        lambda messages, number: failure() if number == 2 else rewrites(number) + "{oops"
    )
    done = augment(writer(), REWRITE, teacher, recipe(), seed=1)
    write_augmentation(done, tmp_path / "augment")
    assert read_augmentation(tmp_path / "augment") == done
    report = json.loads((tmp_path / "augment" / "report.json").read_text())
    assert report["version"] == 3
    assert report["kept"] == 2
    assert report["stopped"].startswith("scripted: cannot be reached")
    rows = [json.loads(line) for line in (tmp_path / "augment" / "synthetic.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "id": "synthetic-0001",
        "input": "Could you carry that dresser upstairs?",
        "output": "oi / dresser / upstairs / ta",
    }


def test_a_line_separator_in_a_text_survives_the_file(tmp_path):
    odd = json_lines(("Could you carry that\u2028barrel\x0bup, \ud83d\ude00?", "oi / barrel\u0085 / up / ta"))
    done = augment(writer(), REWRITE, ScriptedTeacher(lambda *_: odd), recipe(examples=1), seed=1)
    write_augmentation(done, tmp_path)
    assert read_augmentation(tmp_path).kept == done.kept


def test_reading_what_is_not_there_or_was_altered(tmp_path):
    with pytest.raises(EdgePLMError, match=r"report\.json: cannot be read.*Run the augmentation again"):
        read_augmentation(tmp_path)
    write_augmentation(augment(writer(), REWRITE, good_teacher(), recipe(), seed=1), tmp_path)
    examples, report = tmp_path / "synthetic.jsonl", tmp_path / "report.json"
    examples.write_text(examples.read_text() + "\n")
    with pytest.raises(EdgePLMError, match=r"synthetic\.jsonl: is not as its report says"):
        read_augmentation(tmp_path)
    report.write_text(report.read_text().replace('"version": 3', '"version": 1'))
    with pytest.raises(EdgePLMError, match=r"report\.json: was written by another version"):
        read_augmentation(tmp_path)
    for content in ("[]", "{", "{}", '{"version": 2}'):
        report.write_text(content)
        with pytest.raises(EdgePLMError, match="Run the augmentation again"):
            read_augmentation(tmp_path)


def test_a_recipe_that_forbids_uploads_opens_no_network_teacher(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-123456789")
    forbidden = object.__new__(type(recipe()))
    values = {name: getattr(recipe(), name) for name in recipe().as_dict()}
    for name, value in (values | {"teacher": "https://api.example.org/v1", "model": "m"}).items():
        object.__setattr__(forbidden, name, value)
    object.__setattr__(forbidden, "upload", "never")
    for preview in (False, True):
        with pytest.raises(
            TeacherError, match=r"forbids uploads, and api\.example\.org is reached over the network"
        ):
            open_teachers(forbidden, preview=preview)


def test_local_without_a_base_model_is_an_error():
    with pytest.raises(TeacherError, match=r"none was given.*local:SOURCE"):
        open_teachers(recipe())
