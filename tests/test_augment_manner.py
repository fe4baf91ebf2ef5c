import random
from itertools import pairwise
from pathlib import Path

import pytest
from scripted import ScriptedTeacher, rater, recipe, writer

from toolkit.augment import augment
from toolkit.augment.distribution import distribution
from toolkit.augment.diversity import _distance, _words, diverse_order
from toolkit.augment.manner import manner_of
from toolkit.augment.prompts import PromptWriter, schema_of
from toolkit.profiles import Example, Profile, read_profile
from toolkit.samples import sample_user
from toolkit.tasks import load_task

TASKS = sorted(path.stem for path in (Path(__file__).parents[1] / "toolkit/tasks/builtin").glob("*.yaml"))


def manner(user):
    person = sample_user(user)
    task = load_task(person.task)
    return manner_of(read_profile(person.path, task).history, task)


def outputs(*texts):
    return [Example(str(n), "", text) for n, text in enumerate(texts)]


def test_a_plumber_in_small_letters_and_slashes():
    found = manner("bo")
    assert "no capitals at all" in found.traits
    assert "100% have slashes" in found.traits
    assert 18 <= found.lengths.low <= found.lengths.median <= found.lengths.high <= 23
    assert {"ta", "hiya"} <= set(found.words)
    assert found.labels == ()
    assert "no capitals at all" in found.sentences()


def test_a_surgeon_writes_letters():
    traits = manner("amara").traits
    assert '100% begin with "dear"' in traits
    assert "no capitals at all" not in traits


def test_ratings_are_described_with_their_distribution():
    task = load_task("lamp-3")
    strict = manner_of(rater((6, 3, 1, 0, 0)).history, task)
    assert strict.labels == (("1", 0.6), ("2", 0.3), ("3", 0.1))
    assert strict.rating == "On average 1.5: strict; the ends of the scale are given in 60%."
    kind = manner_of(rater((0, 0, 1, 2, 2)).history, task)
    assert "kind" in kind.rating
    assert "5 in 40%" in kind.sentences()


def test_too_little_history_has_no_manner():
    task = load_task("rewrite")
    assert manner_of(writer().history[:3], task) is None


def test_habits_that_only_some_texts_have_are_not_told():
    found = manner_of(
        outputs("Yes!", "No.", "Perhaps", "Later?", "Now;", "So it is", "Hm", "Ah"), load_task("lamp-7")
    )
    assert found.traits == ()
    assert found.words == ()


def test_placeholders_are_no_words_of_the_person():
    texts = [f"<PERSON_1> came on day <ID_{n}> with the kettle" for n in range(5)]
    found = manner_of(outputs(*texts), load_task("lamp-7"))
    assert "person" not in found.words
    assert "kettle" in found.words
    assert not any("person" in trait for trait in found.traits)


def test_neighbours_are_unlike_each_other_and_everybody_is_there():
    examples = [
        Example(f"{kind}{n}", f"the {kind} number {n} of the {kind}s", "")
        for kind in ("kettle", "boat", "song")
        for n in range(8)
    ]  # fmt: skip
    order = diverse_order(examples, 2, random.Random(1))
    assert sorted(each.id for each in order) == sorted(each.id for each in examples)
    triples = [{each.id[:4] for each in order[place : place + 3]} for place in range(0, 24, 3)]
    assert all(len(kinds) == 3 for kinds in triples)

    def spread(sequence):
        return sum(_distance(_words(one), _words(other)) for one, other in pairwise(sequence))

    shuffled = list(examples)
    random.Random(1).shuffle(shuffled)
    assert spread(order) > spread(shuffled)
    assert order != diverse_order(examples, 2, random.Random(2))


def test_what_a_network_teacher_is_told_of_the_manner_is_hidden_too():
    history = tuple(
        Example(f"h{n}", f"Please bring {word} to Maud.", f"{word} for maud / ta maud")
        for n, word in enumerate(["a kettle", "the ladder", "two valves", "some paint", "that rope"])
    )
    teacher = ScriptedTeacher(lambda *_: "no", network=True)
    augment(
        Profile("bo", "rewrite", history, ()), load_task("rewrite"), teacher, recipe(max_requests=1), seed=0
    )
    said = teacher.everything()
    assert "examples, counted: Most texts" in said
    assert "maud" not in said.casefold()


@pytest.mark.parametrize("name", TASKS)
def test_every_built_in_task_is_asked_for_and_read_back(name):
    task = load_task(name)
    label = task.labels[1] if task.labels and task.history_has_answers else None
    history = [
        Example(f"h{n}", f"A text about the {word}.", label or f"On the {word}, briefly")
        for n, word in enumerate(["kettle", "boat", "song", "ladder", "rope"])
    ]
    writer_ = PromptWriter(task, history, shots=3, seed=0)
    (request,) = writer_.write("instruction", [label], iter([1]))
    said = request.messages[0]["content"]
    assert task.description in said
    assert (label or "On the") in said
    keys = list(schema_of(task)["properties"]["examples"]["items"]["properties"])
    assert ("input" in keys) == task.history_needs_input
    values = {"input": "A text about the tide.", "output": label or "On the tide, briefly"}
    answer = str({"examples": [{key: values[key] for key in keys}]}).replace("'", '"')
    (found,) = writer_.read(request, answer, truncated=False)
    assert found.problem is None
    assert found.output == values["output"]
    assert found.input == (values["input"] if task.history_needs_input else "")


def test_a_task_of_ones_own(tmp_path):
    path = tmp_path / "mood.yaml"
    path.write_text(
        "name: mood\ndescription: Name the mood.\nprompt: 'Mood of: {input}'\nparser: label\n"
        "labels: [low, high]\nmetrics: [accuracy]\n"
    )
    task = load_task(str(path))
    history = [Example(f"h{n}", f"It is {n} o'clock and it rains.", "low") for n in range(5)]
    (request,) = PromptWriter(task, history, shots=3, seed=0).write("instruction", ["high"], iter([1]))
    said = request.messages[0]["content"]
    assert "Name the mood." in said
    assert "low in 100%" in said
    assert request.schema["properties"]["examples"]["items"]["properties"]["output"]["enum"] == [
        "low",
        "high",
    ]


def test_labels_side_by_side():
    task = load_task("lamp-3")
    synthetic = [
        Example("s1", "A", "5"),
        Example("s2", "B", "3.0"),
        Example("s3", "C", "5"),
        Example("s4", "D", "1"),
    ]
    parts = distribution(rater((3, 0, 0, 0, 1)).history, synthetic, task)
    assert [(part.name, part.history, part.synthetic) for part in parts] == [
        ("1", 0.75, 0.25),
        ("3", 0.0, 0.25),
        ("5", 0.25, 0.5),
    ]


def test_lengths_side_by_side():
    task = load_task("lamp-7")
    history = outputs(*("word " * size for size in (1, 2, 3, 4, 5, 6, 7, 8)))
    parts = distribution(history, outputs("word " * 2, "word " * 90), task)
    assert [part.name for part in parts] == ["up to 3 words", "4 to 4", "5 to 6", "7 and more"]
    assert sum(part.history for part in parts) == pytest.approx(1)
    assert [part.synthetic for part in parts] == [0.5, 0, 0, 0.5]
    same = distribution(outputs(*["one two"] * 6), outputs("one two three"), task)
    assert [(part.name, part.history, part.synthetic) for part in same] == [
        ("up to 2 words", 1.0, 0.0),
        ("3 and more", 0.0, 1.0),
    ]


def test_nothing_to_compare():
    task = load_task("lamp-7")
    assert distribution(outputs("a", "b"), outputs("c"), task) == ()
    assert distribution(outputs("a"), (), task) == ()
