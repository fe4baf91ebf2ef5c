import subprocess
import sys
from dataclasses import replace

import pytest

from toolkit.errors import EdgePLMError, TaskError
from toolkit.profiles import Example
from toolkit.tasks import Task, builtin_name, builtin_tasks, load_task

LAMP_2 = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
    "further explanation. tags: [sci-fi, based on a book, comedy, action, twist ending, dystopia, dark "
    "comedy, classic, psychology, fantasy, romance, thought-provoking, social commentary, violence, true "
    "story] description: X"
)
LAMP_3 = (
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 "
    "without further explanation. review: X"
)
CITATION = (
    'For an author who has written the paper with the title "T", which reference is related? Just answer '
    'with [1] or [2] without further explanation. [1]: "A" [2]: "B"'
)
ITEMS = [Example("1", "in1", "out1"), Example("2", "in2", "out2")]


def write(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(tmp_path, text):
    with pytest.raises(TaskError) as raised:
        load_task(str(write(tmp_path, text)))
    assert raised.value.where == str(tmp_path / "own.yaml")
    return raised.value.problems


# The built-in tasks


def test_the_built_in_tasks():
    assert builtin_tasks() == ["lamp-1", "lamp-2", "lamp-3", "lamp-4", "lamp-5", "lamp-7", "rewrite"]


@pytest.mark.parametrize("name", ["lamp-3", "LaMP-3", "LaMP_3", "lamp3", "lamp 3", "LAMP3"])
def test_a_task_has_many_spellings(name):
    assert load_task(name).name == "lamp-3" == builtin_name(name)


@pytest.mark.parametrize("name", ["lamp-6", "LaMP-3-like:rating", "lamp", "own"])
def test_other_names_are_not_built_in(name):
    assert builtin_name(name) is None


@pytest.mark.parametrize("name", ["lamp-1", "lamp-2", "lamp-3", "lamp-4", "lamp-5", "lamp-7", "rewrite"])
def test_a_task_survives_its_dict(name):
    task = load_task(name)
    assert task.name == name
    assert Task.from_dict(task.as_dict()) == task


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("lamp-1", "X"),
        ("lamp-2", LAMP_2),
        ("lamp-3", LAMP_3),
        ("lamp-4", "Generate a headline for the following article: X"),
        ("lamp-5", "Generate a title for the following abstract of a paper: X"),
        ("lamp-7", "Paraphrase the following tweet without any explanation before or after it: X"),
        (
            "rewrite",
            "Rewrite the following message the way I would write it, without any explanation before or after "
            "it: X",
        ),
    ],
)
def test_the_instructions_are_the_benchmark_s(name, prompt):
    assert load_task(name).render("X") == prompt


def test_histories_become_questions_with_answers():
    example = Example("1", "X", "Y")
    assert load_task("lamp-1").render_history(example) == "Write an abstract for this title: X"
    assert load_task("lamp-3").render_history(example) == LAMP_3
    assert load_task("lamp-7").render_history(replace(example, input="")).startswith("Write a tweet")
    assert not load_task("lamp-1").history_has_answers
    assert load_task("lamp-3").history_has_answers
    assert not load_task("lamp-7").history_needs_input


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        (
            "lamp-2",
            f'the tag for the movie: "in1" is "out1" , and the tag for the movie: "in2" is "out2" . {LAMP_2}',
        ),
        ("lamp-3", f'out1 is the score for "in1" , and out2 is the score for "in2" . {LAMP_3}'),
        (
            "lamp-4",
            '"out1" is the title for "in1" , and "out2" is the title for "in2" . Generate a headline for the '
            "following article: X",
        ),
        (
            "lamp-5",
            '"out1" is a title for "in1" , and "out2" is a title for "in2" . Following the given patterns '
            "Generate a title for the following abstract of a paper: X",
        ),
        (
            "lamp-7",
            '"out1" , and "out2"  are written by a person. Following the given patterns Paraphrase the '
            "following tweet without any explanation before or after it: X",
        ),
    ],
)
def test_retrieved_history_is_worded_as_in_the_benchmark(name, prompt):
    assert load_task(name).render_with_history("X", ITEMS) == prompt


def test_lamp_1_takes_its_history_behind_the_word_title():
    prompt = load_task("lamp-1").render_with_history(CITATION, ITEMS)
    assert prompt == CITATION.replace("the title ", 'the title, and "in1", and "in2" ', 1)


def test_history_without_a_place_for_it_is_an_error():
    with pytest.raises(TaskError, match=r"(?s)task lamp-1.*insert_after: 'title' matches nothing"):
        load_task("lamp-1").render_with_history("no such word", ITEMS)


def test_no_items_leave_the_plain_prompt():
    assert load_task("lamp-3").render_with_history("X", []) == LAMP_3


def test_braces_in_texts_stay_as_they_are():
    task = load_task("lamp-4")
    item = Example("1", "a {output} and {0}", "{prompt} {input}")
    prompt = task.render_with_history("{items} {", [item])
    assert prompt == (
        '"{prompt} {input}" is the title for "a {output} and {0}" . Generate a headline for the following '
        "article: {items} {"
    )


@pytest.mark.parametrize("name", ["lamp-1", "lamp-2", "lamp-3", "lamp-4", "lamp-5", "lamp-7", "rewrite"])
def test_the_instruction_is_stripped_from_a_query_that_holds_it(name):
    task = load_task(name)
    assert task.raw_input(task.render(" a text: with colons\n")) == " a text: with colons\n"
    assert task.raw_input("a text without it") == "a text without it"


def test_an_instruction_on_both_sides_is_stripped():
    task = Task.from_dict({"name": "own", "prompt": "aXa{input}aXa"})
    assert task.raw_input("aXatextaXa") == "text"
    assert task.raw_input("aXa") == "aXa"


# Reading answers


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("comedy", "comedy"),
        (" Comedy\n", "comedy"),
        ("**dark comedy**.", "dark comedy"),
        ("The tag is dark comedy, not comedy", "dark comedy"),
        ("It is a comedy. A dark comedy!", "comedy"),
        ("Sci-Fi!", "sci-fi"),
        ("classical", None),
        ("", None),
        ("horror", None),
    ],
)
def test_labels_are_read_from_answers(answer, label):
    assert load_task("lamp-2").parse(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [("[1]", "[1]"), ("1", "[1]"), (" [2].", "[2]"), ("Reference [2] is related", "[2]"), ("[3]", None)],
)
def test_labels_in_brackets_are_read(answer, label):
    assert load_task("lamp-1").parse(answer) == label


def test_labels_that_differ_by_punctuation_alone_are_told_apart():
    task = Task.from_dict(
        {"name": "own", "prompt": "{input}", "parser": "label", "labels": ["+1", "-1", "C"]}
    )
    assert [task.parse(answer) for answer in ("+1", "-1", "1", "c")] == ["+1", "-1", None, "C"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("4", "4"),
        ("4.", "4"),
        ("4.0", "4"),
        ("4,0", "4"),
        (" 4\n", "4"),
        ("The score is 4", "4"),
        ("4/5", "4"),
        ("score-4", "4"),
        ("...3", "3"),
        ("3-4", "3"),
        ("0", None),
        ("10", None),
        ("-4", None),
        ("3.5", None),
        ("3,5", None),
        ("1,000", None),
        ("4th", None),
        ("four", None),
        ("", None),
    ],
)
def test_numbers_are_read_from_answers(answer, label):
    assert load_task("lamp-3").parse(answer) == label


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("  A title\n", "A title"),
        ('"A title"', "A title"),
        ("“A title”", "A title"),
        ('"Yes" and "no"', '"Yes" and "no"'),
        ("Dear Tom,\n\nI write.\n\nAmara", "Dear Tom,\n\nI write.\n\nAmara"),
        ('"', '"'),
        ('""', None),
        (" \n", None),
    ],
)
def test_texts_are_read_whole(answer, text):
    assert load_task("rewrite").parse(answer) == text


# Scoring


def test_ratings_are_scored_as_in_the_benchmark():
    task = load_task("lamp-3")
    answers, golds = ["The score is 4", "no idea", "5"], ["5", "4", "5.0"]
    assert task.per_example(answers, golds) == [1, 3, 0]
    assert task.score(answers, golds) == {"mae": pytest.approx(4 / 3), "rmse": pytest.approx((10 / 3) ** 0.5)}
    assert task.primary_metric == "mae"
    assert not task.higher_is_better("mae")


def test_labels_are_scored():
    task = load_task("lamp-2")
    answers, golds = ["Comedy.", "no tag"], ["comedy", "action"]
    assert task.per_example(answers, golds) == [1, 0]
    assert task.score(answers, golds) == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 15)}
    assert task.higher_is_better(task.primary_metric)


def test_texts_are_scored():
    task = load_task("lamp-5")
    assert task.score(['"A fine title"', ""], ["A fine title", "Other"]) == {"rouge_l": 0.5, "rouge_1": 0.5}
    assert task.per_example(["a", "b"], ["a", "a"]) == [1, 0]


@pytest.mark.parametrize(
    ("task", "gold"), [("lamp-3", ""), ("lamp-3", "6"), ("lamp-2", "horror"), ("lamp-5", "")]
)
def test_a_gold_that_cannot_be_scored_is_an_error(task, gold):
    with pytest.raises(EdgePLMError, match=r"1 of 1 gold answers cannot be scored.*Score only queries"):
        load_task(task).score(["4"], [gold])


# A person's own tasks


def test_a_short_task_file_is_enough(tmp_path):
    task = load_task(write(tmp_path, 'name: mine\nprompt: "Shorten: {input}"\n'))
    assert (task.parser, task.metrics, task.version) == ("text", ("rouge_l", "rouge_1"), 1)
    assert task.render_history(Example("1", "X", "Y")) == "Shorten: X"
    prompt = task.render_with_history("Z", [Example("1", "X", "Y")])
    assert prompt == '"Y" is the answer for "X". Shorten: Z'


def test_labels_are_texts_as_they_are_written(tmp_path):
    text = 'name: mine\nprompt: "{input}"\nparser: label\nlabels: [yes, no, 1.50, 007, "null"]\n'
    task = load_task(write(tmp_path, text))
    assert task.labels == ("yes", "no", "1.50", "007", "null")
    assert task.metrics == ("accuracy", "macro_f1")


def test_insert_after_is_any_tasks_to_use(tmp_path):
    text = """
name: mine
prompt: "Notes: {input}"
retrieval: {item: "{output}", joiner: "; ", insert_after: "^Notes:", wrap: " ({items})"}
"""
    assert load_task(write(tmp_path, text)).render_with_history("X", ITEMS) == "Notes: (out1; out2) X"


def test_a_copy_of_a_built_in_task_is_read_and_a_changed_one_needs_a_name(tmp_path):
    text = 'name: lamp-4\nprompt: "Headline: {input}"\n'
    assert problems_of(tmp_path, text) == [
        "name: found 'lamp-4', a built-in task that says something else; accepted: another name"
    ]


def test_all_problems_come_at_once(tmp_path):
    text = """\
name: My Task
promt: "Rate: {input}"
parser: number
labels: [1, two, 3, 3]
metrics: [mea, rouge_l, rmse, rmse]
version: 0
max_new_tokens: many
retrieval:
  item: nothing
  wrap: "{items}"
  insert_after: "("
  query: word
  joyner: x
"""
    problems = problems_of(tmp_path, text)
    starts = [
        'line 1, name: found "My Task"; accepted: lower-case letters',
        "line 2, promt: found an unknown field; accepted: prompt (did you mean that?)",
        'line 4, labels[1]: found "two"; accepted: a number',
        'line 4, labels[3]: found "3"; accepted: each label once',
        'line 5, metrics[0]: found "mea"; accepted: accuracy, macro_f1, mae, rmse, exact_match',
        'line 5, metrics[1]: found "rouge_l"; accepted: accuracy, macro_f1, mae',
        'line 5, metrics[3]: found "rmse"; accepted: each metric once',
        "line 6, version: found 0; accepted: a whole number from 1",
        'line 7, max_new_tokens: found "many"; accepted: a whole number from 1',
        'line 9, retrieval.item: found "nothing"; accepted: a text with {input} or {output}',
        'line 10, retrieval.wrap: found "{items}"; accepted: a text with {items} and {prompt}',
        'line 11, retrieval.insert_after: found "("; accepted: a regular expression (missing )',
        'line 12, retrieval.query: found "word"; accepted: a regular expression with at least one group',
        "line 13, retrieval.joyner: found an unknown field; accepted: joiner (did you mean that?)",
        "prompt: found nothing; accepted: a text",
    ]
    for problem, start in zip(problems, starts, strict=True):
        assert problem.startswith(start)
    assert any("did you mean mae?" in problem for problem in problems)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('prompt: "no place"', 'prompt: found "no place"; accepted: a text with {input} in it exactly once'),
        ('prompt: "{input} {input}"', "exactly once"),
        ("prompt: [a]", 'prompt: found ["a"]; accepted: a text'),
        ("description: 5", "description: found 5; accepted: a text"),
        ('history_prompt: "{input}{input}"', "history_prompt: found"),
        ("parser: regex", 'parser: found "regex"; accepted: text, label, number'),
        ("labels: [a, b]", "labels: found"),
        (
            "parser: label",
            "labels: found nothing; accepted: a list of at least two, because the parser is label",
        ),
        ("parser: label\nlabels: [a]", 'labels: found ["a"]; accepted: a list of at least two'),
        ("parser: label\nlabels: [a, [b]]", "labels[1]: found"),
        ("parser: label\nlabels: [a, A]", "labels[1]: found"),
        ("parser: number\nlabels: [1, inf]", "labels[1]: found"),
        ("metrics: rouge_l", "metrics: found"),
        ("metrics: []", "metrics: found []"),
        ("metrics: [accuracy]", "because the parser is text"),
        ("version: 1.5", 'version: found "1.5"'),
        ("retrieval: yes", "retrieval: found"),
        ("retrieval: {joiner: [a]}", "retrieval.joiner: found"),
        ("retrieval: {insert_after: a}", "retrieval.wrap: found nothing"),
        ('retrieval: {insert_after: a, wrap: "{items}{prompt}"}', "without {prompt}"),
        ("retrieval: {insert_after: [a]}", "retrieval.insert_after: found"),
        ("retrieval: {document: x}", "retrieval.document: found"),
    ],
)
def test_each_bad_field_is_named(tmp_path, line, problem):
    prompt = "" if line.startswith("prompt") else 'prompt: "{input}"\n'
    problems = problems_of(tmp_path, f"name: mine\n{prompt}{line}\n")
    assert len(problems) == 1
    assert problem in problems[0]
    assert problems[0].startswith("line ") or "found nothing" in problems[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: mine\nprompt: [", "line 2"),
        ("name: a\nname: b\n", "line 2, name: given twice"),
        ("", "found no fields"),
        ("- a\n", "found no fields"),
        ("name: &a [*a]\n", "line 1"),
    ],
)
def test_files_that_are_not_a_task_at_all(tmp_path, text, problem):
    problems = problems_of(tmp_path, text)
    assert problem in problems[0]


def test_a_file_that_is_not_utf_8(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes("name: mine\ndescription: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(TaskError, match="line 2: not UTF-8"):
        load_task(str(path))


def test_a_task_that_is_not_there():
    with pytest.raises(TaskError, match=r"lamp-33: no such task; accepted: lamp-1, .*did you mean lamp-3"):
        load_task("lamp-33")
    with pytest.raises(TaskError, match=r"mine\.yaml: no such file\. Check the path"):
        load_task("mine.yaml")


def test_a_dict_with_problems_says_which_task():
    with pytest.raises(TaskError, match=r"task own: prompt: found nothing"):
        Task.from_dict({"name": "own"})


def test_tasks_and_profiles_import_without_the_heavy_libraries():
    heavy = {"torch", "numpy", "transformers", "datasets", "bm25s", "rouge_score", "nltk"}
    code = "import sys, toolkit.tasks, toolkit.profiles, toolkit.retrieval; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
