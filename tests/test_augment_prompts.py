import json
from itertools import count

import pytest
from scripted import json_lines, rater, writer

from toolkit.augment.prompts import PromptWriter, instruction
from toolkit.augment.reading import Candidate, Fields, read_json_examples, read_pattern, whole_sentences
from toolkit.profiles import Example, Profile
from toolkit.tasks import load_task

RATING, REWRITE, TWEET = load_task("lamp-3"), load_task("rewrite"), load_task("lamp-7")
SCORE_TEXT = Fields.of(RATING)


def requests(profile, task, style, wanted, *, shots=3, seed=0):
    return PromptWriter(task, profile.history, shots=shots, seed=seed).write(style, wanted, count())


def content(request):
    return "\n".join(message["content"] for message in request.messages)


def test_one_instruction_asks_for_several_examples():
    (request,) = requests(rater(), RATING, "instruction", ["1", "5"])
    text = request.messages[0]["content"]
    assert [message["role"] for message in request.messages] == ["user"]
    assert "Write 2 new examples" in text
    assert 'in this order: "1", "5"' in text
    assert '{"input": "...", "output": "..."}' in text
    assert RATING.description in text
    assert sum(json.dumps(example.input) in text for example in rater().history) == 3


def test_an_instruction_without_inputs_or_labels():
    shots = [Example("1", "", "tea again")]
    text = instruction(TWEET, shots, [None])
    assert '{"output": "tea again"}' in text
    assert '"input"' not in text
    assert "in this order" not in text
    assert "Write 1 new example that" in text


def test_a_pattern_for_a_label_ends_where_a_new_input_begins():
    (request,) = requests(rater(), RATING, "pattern", ["5"])
    roles = [message["role"] for message in request.messages]
    assert roles == ["user", "assistant"] * 4
    assert all(message["content"].startswith("Score: 5\nText: The ") for message in request.messages[1:-1:2])
    assert request.messages[-1]["content"] == request.begun
    assert request.begun.startswith("Score: 5\nText: The ")
    assert len(request.begun.split("Text: ")[1].split()) == 3
    assert request.begun.split("Text: ")[1] + " " not in content(request).removesuffix(request.begun)


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_a_pattern_never_shows_more_shots_than_asked(shots):
    for request in requests(rater((1, 2, 0, 3, 9)), RATING, "pattern", ["1", "2", "4", "5"], shots=shots):
        assert len(request.messages) <= 2 * shots + 2


def test_a_pattern_for_a_rare_label_is_filled_up_with_others_first():
    (request,) = requests(rater((1, 0, 0, 2, 5)), RATING, "pattern", ["1"])
    shown = [message["content"].split("\n")[0] for message in request.messages[1:-1:2]]
    assert shown[-1] == "Score: 1"
    assert len(shown) == 2
    assert shown[0] != "Score: 1"
    assert request.begun == "Score: 1\nText:"


def test_a_pattern_for_text_begins_with_the_persons_own_words():
    (request,) = requests(writer(), REWRITE, "pattern", [None])
    assert request.begun == "Output:"
    assert request.messages[1]["content"].startswith("Output: oi / ")
    assert "\nInput: Please bring" in request.messages[1]["content"]
    assert request.messages[0]["content"] == "Write an output and its input."


def chat_requests(profile, task, wanted, *, shots=3):
    """Patterns for a teacher that does not go on with a turn that was begun, and who reads its answers."""
    asker = PromptWriter(task, profile.history, shots=shots, seed=0, continues=False)
    return asker, asker.write("pattern", wanted, count())


def test_a_pattern_for_an_endpoint_says_in_the_users_turns_how_an_answer_begins():
    _, (request,) = chat_requests(rater(), RATING, ["5"])
    assert [message["role"] for message in request.messages] == ["user", "assistant"] * 3 + ["user"]
    for asked, answered in zip(request.messages[0:-1:2], request.messages[1::2], strict=True):
        ask, begun = asked["content"].split("\n", 1)
        assert ask == SCORE_TEXT.ask
        assert answered["content"].startswith(begun)
        assert answered["content"] != begun
    assert request.messages[-1]["content"] == f"{SCORE_TEXT.ask}\n{request.begun}"


def test_a_pattern_for_an_endpoint_names_each_shots_own_label():
    _, (request,) = chat_requests(rater((1, 0, 0, 2, 5)), RATING, ["1"])
    labels = [message["content"].split("\n")[1] for message in request.messages[::2]]
    assert labels[-2:] == ["Score: 1", "Score: 1"]
    assert labels[0] in ("Score: 4", "Score: 5")


def test_a_pattern_for_an_endpoint_needs_no_beginning_where_there_is_no_label():
    _, (request,) = chat_requests(writer(), REWRITE, [None])
    assert {message["content"] for message in request.messages[::2]} == {"Write an output and its input."}


@pytest.mark.parametrize(
    "answer",
    [
        "Score: 5\nText: The kettle came and sings.",  # as the shots are
        "Text: The kettle came and sings.\nScore: 4",  # the label is the one that was asked for
    ],
)
def test_an_endpoints_pattern_is_read_by_its_marks(answer):
    asker, (request,) = chat_requests(rater(), RATING, ["5"])
    (found,) = asker.read(request, answer, truncated=False)
    assert found == Candidate("The kettle came and sings.", "5")


def test_an_answer_without_marks_goes_on_where_the_question_ended():
    asker, (request,) = chat_requests(rater(), RATING, ["5"])
    (found,) = asker.read(request, "came and sings.", truncated=False)
    assert found == Candidate(f"{request.begun.split('Text: ')[1]} came and sings.", "5")
    asker, (request,) = chat_requests(writer(), REWRITE, [None])
    (found,) = asker.read(request, "oi / kettle / ta", truncated=False)
    assert found.problem == 'no "Input:" in the answer'


def test_an_input_that_was_cut_off_keeps_its_whole_sentences():
    asker, (request,) = chat_requests(rater(), RATING, ["5"])
    (found,) = asker.read(request, 'Score: 5\nText: It is "here." And it sings. When I', truncated=True)
    assert found == Candidate('It is "here." And it sings.', "5")
    (found,) = asker.read(request, "Score: 5\nText: It is here and", truncated=True)
    assert found.problem == "cut off at the token limit"


def test_an_output_that_was_cut_off_is_no_example():
    tweets = tuple(Example(str(number), "", f"tea number {number}") for number in range(4))
    asker = PromptWriter(TWEET, tweets, shots=3, seed=0)
    (request,) = asker.write("pattern", [None], count())
    (found,) = asker.read(request, " Tea again. And then", truncated=True)
    assert found.problem == "cut off at the token limit"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two", "One."),
        ("Version 3.2 of", ""),
        ("Really?! Yes", "Really?!"),
        ("茶。また", "茶。"),
        ("", ""),
    ],
)
def test_whole_sentences(text, whole):
    assert whole_sentences(text) == whole


def test_every_pattern_asks_for_one_example_with_its_own_seed():
    found = requests(rater(), RATING, "pattern", ["1", "4", "5"])
    assert [request.wanted for request in found] == [("1",), ("4",), ("5",)]
    assert len({request.seed for request in found}) == 3


def test_shots_are_the_same_for_a_seed_and_others_for_another():
    one, again, other = (requests(writer(), REWRITE, "pattern", [None] * 3, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert [content(request) for request in one] != [content(request) for request in other]


def test_every_example_is_shown_before_one_is_shown_again():
    found = requests(writer(), REWRITE, "pattern", [None] * 4, shots=2)
    for example in writer().history:
        assert sum(f"Output: {example.output}\n" in content(request) for request in found) == 1


def test_more_shots_than_examples_show_each_once():
    (request,) = requests(writer(), REWRITE, "pattern", [None], shots=50)
    assert len(request.messages) == 2 * len(writer().history) + 2
    for (request,) in (
        requests(writer(), REWRITE, "instruction", [None], shots=7, seed=seed) for seed in range(5)
    ):
        shown = [line for line in content(request).split("\n") if line.startswith('{"input": "Please')]
        assert len(shown) == len(set(shown)) == 7


def test_long_examples_mean_fewer_shots_but_at_least_two():
    history = tuple(Example(str(n), f"{n} word " * 900, f"title {n}") for n in range(6))
    (request,) = requests(
        Profile("p", "lamp-5", history, ()), load_task("lamp-5"), "pattern", [None], shots=6
    )
    assert len(request.messages) == 2 * 2 + 2


def test_a_history_of_one_example_is_enough():
    history = (Example("1", "The only review there is.", "5"),)
    for style in ("pattern", "instruction"):
        (request,) = requests(Profile("p", "lamp-3", history, ()), RATING, style, ["5"])
        assert "The only review there is." in content(request)


@pytest.mark.parametrize(
    "answer",
    [
        json_lines(("Tea.", "4"), ("Jam.", "1")),
        "Here you are:\n```json\n" + json_lines(("Tea.", 4), ("Jam.", 1)) + "\n```",
        json.dumps([{"input": "Tea.", "output": "4"}, {"output": "1", "input": "Jam."}], indent=2),
        json.dumps({"examples": [{"input": "Tea.", "output": 4}, {"input": " Jam. ", "output": 1}]}),
        '<think>{"input": "no", "output": "no"}</think>' + json_lines(("Tea.", "4"), ("Jam.", "1")),
    ],
)
def test_json_in_any_wrapping(answer):
    assert read_json_examples(answer, SCORE_TEXT) == [Candidate("Tea.", "4"), Candidate("Jam.", "1")]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "empty answer"),
        ("I cannot help with that.", "no example in the answer"),
        ("{}", "no example in the answer"),
        ('{"input": "Tea.", "output": "4', "not valid JSON"),
        ('{"input": "Tea."}', '"output" is missing or not a text'),
        ('{"input": ["Tea."], "output": "4"}', '"input" is missing or not a text'),
        ('{"input": "Tea.", "output": true}', '"output" is missing or not a text'),
        ("{" * 5000, "no example in the answer"),
    ],
)
def test_json_that_cannot_be_read(answer, problem):
    (found,) = read_json_examples(answer, SCORE_TEXT)
    assert found.problem == problem


def test_a_broken_line_does_not_take_the_others_with_it():
    found = read_json_examples('{"input": "A", "output": "1}\n' + json_lines(("Tea.", "4")), SCORE_TEXT)
    assert [candidate.problem for candidate in found] == ["not valid JSON", None]


def test_a_pattern_is_read_back_and_what_follows_it_is_left_out():
    text = "Score: 4\nText: A kettle that sings.\n\nScore: 2\nText: Another."
    assert read_pattern(text, SCORE_TEXT, label="4", one_line=True) == Candidate("A kettle that sings.", "4")
    text = "Output: oi / tea / ta\nInput: Tea, please.\nWrite an output and its input.\nOutput: oi"
    assert read_pattern(text, Fields("Input", "Output"), label=None, one_line=False) == Candidate(
        "Tea, please.", "oi / tea / ta"
    )


def test_a_pattern_of_several_lines():
    text = "Output: dear all\n\nbring tea\nInput: Bring tea.\n\nThanks."
    fields = Fields("Input", "Output")
    assert read_pattern(text, fields, label=None, one_line=False) == Candidate(
        "Bring tea.\n\nThanks.", "dear all\n\nbring tea"
    )
    assert read_pattern(text, fields, label=None, one_line=True) == Candidate("Bring tea.", "dear all")


def test_a_pattern_without_its_second_part():
    found = read_pattern("Output: oi / tea", Fields("Input", "Output"), label=None, one_line=True)
    assert found == Candidate("", "oi / tea", 'no "Input:" in the answer')


def test_a_pattern_of_outputs_only():
    assert read_pattern("Text: tea again", Fields.of(TWEET), label=None, one_line=True) == Candidate(
        "", "tea again"
    )


def test_an_example_cut_off_by_the_token_limit_is_not_used_but_one_before_it_is():
    prompts = PromptWriter(RATING, rater().history, shots=2, seed=0)
    (request,) = prompts.write("pattern", ["5"], count())
    (cut,) = prompts.read(request, " kettle that never", truncated=True)
    assert cut.problem == "cut off at the token limit"
    (whole,) = prompts.read(request, " kettle that sings.\nScore: 4\nText: And", truncated=True)
    assert whole.problem is None
    assert whole.input.endswith("kettle that sings.")


def test_fields_with_names_that_cannot_be_told_apart():
    task = load_task("rewrite").as_dict() | {"input_field": "my_text", "output_field": "my text"}
    assert Fields.of(type(REWRITE).from_dict(task)) == Fields("Input", "Output")
