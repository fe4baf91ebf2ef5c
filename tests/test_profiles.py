import csv
import gzip
import json
from datetime import date

import pytest
from rapidfuzz import fuzz

from toolkit.errors import ProfileError
from toolkit.profiles import Example, Profile, read_profile, read_profiles, write_profile
from toolkit.samples import sample_path, sample_users
from toolkit.tasks import Task, load_task

RATING = load_task("lamp-3")
REWRITE = load_task("rewrite")
QUESTION = RATING.render("A dull book.")
# A new example a line: the shortest valid file of the one-example-a-line form.
FIRST = {"user_id": "u", "split": "history", "id": "1", "input": "Good.", "output": "4"}
USER = {
    "user_id": "u",
    "profile": [{"id": "1", "text": "Good.", "score": "4"}],
    "query": QUESTION,
    "gold": "2",
}

LINE = json.dumps(FIRST).encode()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def error_of(path, task=RATING, **options):
    with pytest.raises(ProfileError) as raised:
        read_profiles(path, task, **options)
    place = f"{raised.value.where}: {raised.value.what}. "
    assert str(raised.value).startswith(place)  # and what follows says how to mend it
    assert len(str(raised.value)) > len(place)
    return str(raised.value)


def lamp_folder(tmp_path, questions, golds=None, prefix=""):
    (tmp_path / f"{prefix}questions.json").write_text(json.dumps(questions), encoding="utf-8")
    if golds is not None:
        outputs = {"task": "LaMP_3", "golds": [{"id": key, "output": gold} for key, gold in golds.items()]}
        (tmp_path / f"{prefix}outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
    return tmp_path


def questions():
    history = [{"id": "7_0", "text": "Good.", "score": "4"}, {"id": "7_1", "text": "Bad.", "score": 1}]
    return [
        {"id": "7", "input": QUESTION, "profile": history},
        {"id": "8", "input": RATING.render("Fine."), "profile": [{"id": "8_0", "text": "Oh.", "score": "3"}]},
    ]


# The forms


@pytest.mark.parametrize("prefix", ["", "dev_"])
def test_lamp_s_two_files(tmp_path, prefix):
    folder = lamp_folder(tmp_path, questions(), {"8": "3", "7": "2"}, prefix)
    expected = [
        Profile(
            "7",
            "lamp-3",
            (Example("7_0", "Good.", "4"), Example("7_1", "Bad.", "1")),
            (Example("7", "A dull book.", "2"),),
        ),
        Profile("8", "lamp-3", (Example("8_0", "Oh.", "3"),), (Example("8", "Fine.", "3"),)),
    ]
    assert read_profiles(folder, RATING) == expected
    assert read_profiles(folder / f"{prefix}questions.json", RATING) == expected


def test_lamp_s_questions_without_outputs_have_queries_without_gold(tmp_path):
    profiles = read_profiles(lamp_folder(tmp_path, questions()), RATING)
    assert [query.output for profile in profiles for query in profile.queries] == ["", ""]


def test_questions_of_one_lamp_user_share_the_first_one_s_history(tmp_path):
    # The second question's history holds the first question: as history it would give its answer away.
    first = {"id": "1", "user_id": 9, "input": "q1", "profile": [{"id": "a", "text": "x", "score": "1"}]}
    more = [{"id": "b", "text": "q1", "score": "2"}]
    second = {"id": "2", "user_id": 9, "input": "q2", "profile": more}
    profile = read_profile(lamp_folder(tmp_path, [first, second], {"1": "2", "2": "3"}), RATING)
    assert (profile.user_id, [example.id for example in profile.history]) == ("9", ["a"])
    assert [query.id for query in profile.queries] == ["1", "2"]


def test_a_long_array_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.json_array._PIECE", 7)
    folder = lamp_folder(tmp_path, questions(), {"7": "2", "8": "3"})
    assert [profile.user_id for profile in read_profiles(folder, RATING)] == ["7", "8"]
    text = json.dumps(questions(), indent=2)
    (tmp_path / "questions.json").write_text(text.replace('"8_0"', '"8_0'), encoding="utf-8")
    line = 1 + text[: text.index('"8_0"')].count("\n")
    assert f"questions.json, line {line}: not JSON" in error_of(folder)


def test_lamp_7_s_histories_hold_outputs_only(tmp_path):
    task = load_task("lamp-7")
    question = {"id": "1", "input": task.render("It rains."), "profile": [{"id": "1_0", "text": "rain lol"}]}
    profile = read_profile(lamp_folder(tmp_path, [question]), task)
    assert profile.history == (Example("1_0", "", "rain lol"),)
    assert profile.queries == (Example("1", "It rains.", ""),)


def test_lamp_1_s_histories_hold_papers_and_its_golds_are_labels(tmp_path):
    task = load_task("lamp-1")
    paper = {"id": "1_0", "title": "Tides", "abstract": "On the sea.", "date": 2014}
    rows = [{"user_id": "u", "profile": [paper], "query": "Which? [1] [2]", "gold": "[2]"}]
    profile = read_profile(write(tmp_path / "p.jsonl", rows), task)
    assert profile.history == (Example("1_0", "Tides", "On the sea.", "2014"),)
    assert profile.queries == (Example("u-query", "Which? [1] [2]", "[2]"),)


def test_one_user_a_line_plain_zipped_and_as_an_array(tmp_path):
    more = [{"id": "q2", "query": RATING.render("Meh."), "gold": "3"}]
    rows = [{**USER, "query_id": "q1", "more_queries": more}, {**USER, "user_id": "v"}]
    plain = write(tmp_path / "users.jsonl", rows)
    zipped = tmp_path / "users.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    array = tmp_path / "users.json"
    array.write_text(json.dumps(rows), encoding="utf-8")
    profiles = read_profiles(plain, RATING)
    assert profiles[0].queries == (Example("q1", "A dull book.", "2"), Example("q2", "Meh.", "3"))
    assert profiles[1].queries == (Example("v-query", "A dull book.", "2"),)
    assert read_profiles(zipped, RATING) == read_profiles(array, RATING) == profiles


def test_one_user_over_many_lines(tmp_path):
    path = tmp_path / "user.json"
    path.write_text(json.dumps(USER, indent=2), encoding="utf-8")
    assert read_profile(path, RATING).history == (Example("1", "Good.", "4"),)


def test_history_and_queries_are_names_too(tmp_path):
    row = {"user_id": "u", "history": USER["profile"], "queries": [{"id": "q", "text": "Bad.", "score": 1}]}
    profile = read_profile(write(tmp_path / "u.jsonl", [row]), RATING)
    assert profile.queries == (Example("q", "Bad.", "1"),)


def test_one_example_a_line(tmp_path):
    rows = [
        {**FIRST, "id": 2, "time": "2024-05-01"},
        {"user_id": "v", "split": "history", "id": "1", "text": "Own names.", "score": 5},
        {**FIRST, "id": "3", "time": "2024-04-01"},
        {"user_id": "u", "split": "query", "id": "4", "input": QUESTION},
    ]
    path = write(tmp_path / "all.jsonl", rows)
    path.write_text("\n\n" + path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    u, v = read_profiles(path, RATING)
    assert u.history == (Example("3", "Good.", "4", "2024-04-01"), Example("2", "Good.", "4", "2024-05-01"))
    assert u.queries == (Example("4", "A dull book.", ""),)
    assert v == Profile("v", "lamp-3", (Example("1", "Own names.", "5"),), ())


@pytest.mark.parametrize("name", ["maud.jsonl", "maud.jsonl.gz"])
def test_a_file_of_one_user_may_leave_the_user_out(tmp_path, name):
    text = json.dumps({key: value for key, value in FIRST.items() if key != "user_id"})
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read_profile(path, RATING).user_id == "maud"
    assert read_profile(path, RATING, "maud").user_id == "maud"


@pytest.mark.parametrize(("delimiter", "name"), [(",", "t.csv"), (";", "t.csv"), ("\t", "t.tsv"), (",", "t")])
def test_csv(tmp_path, delimiter, name):
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["user_id", "split", "id", "text", "score", "time"])
        writer.writerow(["u", "history", "1", 'Two\nlines, "quoted"; and\ttabbed', "4", ""])
        writer.writerow([])
        writer.writerow(["u", "query", "2", "x" * 200_000, "", ""])
    profile = read_profile(tmp_path / name, RATING)
    assert profile.history == (Example("1", 'Two\nlines, "quoted"; and\ttabbed', "4"),)
    assert profile.queries == (Example("2", "x" * 200_000, ""),)


def test_datasets_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{**FIRST, "time": date(2024, 5, 1)}, {**FIRST, "id": "2", "split": "query", "time": None}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "examples")
    profile = read_profile(tmp_path / "examples", RATING)
    assert profile.history == (Example("1", "Good.", "4", "2024-05-01"),)
    assert profile.queries == (Example("2", "Good.", "4"),)
    datasets.Dataset.from_list([USER, {**USER, "user_id": "v"}]).save_to_disk(tmp_path / "users")
    assert [profile.user_id for profile in read_profiles(tmp_path / "users", RATING)] == ["u", "v"]


@pytest.mark.parametrize("names", [("history", "query"), ("train", "test")])
def test_the_splits_of_a_datasets_folder(tmp_path, names):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        id=datasets.Value("int64"),
        text=datasets.Value("string"),
        score=datasets.ClassLabel(names=list("12345")),
    )
    splits = {
        name: datasets.Dataset.from_list([{"id": number, "text": "A", "score": "2"}], features=features)
        for number, name in enumerate(names)
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "mia")
    # A class label is stored as its index: 1 stands for the label 2.
    assert read_profile(tmp_path / "mia", RATING) == Profile(
        "mia", "lamp-3", (Example("0", "A", "2"),), (Example("1", "A", "2"),)
    )


def test_an_unknown_split_of_a_datasets_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"id": "1", "text": "A", "score": "2"}])
    datasets.DatasetDict({"validation": rows}).save_to_disk(tmp_path / "d")
    assert "d, split validation, row 1: unknown split 'validation'. Accepted: history, query" in error_of(
        tmp_path / "d"
    )


# Order, labels, digest, writing


def test_history_is_sorted_by_time_and_undated_examples_keep_their_places(tmp_path):
    times = ["2024-03-01T10:00:00+02:00", None, "2024-03-01T09:00", "2012", "2013-2", 1300000000, "2012"]
    rows = [{**FIRST, "id": str(number), "time": time} for number, time in enumerate(times)]
    profile = read_profile(write(tmp_path / "t.jsonl", rows), RATING)
    assert [example.id for example in profile.history] == ["5", "1", "3", "6", "4", "0", "2"]
    assert profile.history[0].time == "1300000000"


def test_golds_take_the_label_s_own_form(tmp_path):
    task = Task.from_dict({"name": "own", "prompt": "{input}", "parser": "label", "labels": ["Yes", "No"]})
    rows = [{**FIRST, "output": " yes"}, {**FIRST, "id": "2", "output": "NO"}]
    profile = read_profile(write(tmp_path / "t.jsonl", rows), task)
    assert [example.output for example in profile.history] == ["Yes", "No"]
    rows = [{**FIRST, "output": 4.0}, {**FIRST, "id": "2", "output": "4,0"}]
    profile = read_profile(write(tmp_path / "t.jsonl", rows), RATING)
    assert [example.output for example in profile.history] == ["4", "4"]


def test_a_written_profile_reads_back(tmp_path):
    history = (Example("1", "Zwei\nZeilen\u2028", "Ja, „so“.", "2024"), Example("2", "x", "y"))
    profile = Profile("ü", "rewrite", history, (Example("3", "z", ""),))
    write_profile(profile, tmp_path / "new" / "p.jsonl")
    assert read_profile(tmp_path / "new" / "p.jsonl", REWRITE) == profile


def test_the_digest_is_of_the_content_alone(tmp_path):
    one = read_profile(write(tmp_path / "a.jsonl", [FIRST]), RATING)
    with (tmp_path / "b.csv").open("w", newline="") as file:
        csv.writer(file).writerows([FIRST.keys(), FIRST.values()])
    assert one.digest() == read_profile(tmp_path / "b.csv", RATING).digest()
    other = read_profile(write(tmp_path / "a.jsonl", [{**FIRST, "output": "3"}]), RATING)
    assert len(one.digest()) == 64
    assert one.digest() != other.digest()


# Which user


def test_one_of_several_users_must_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{**FIRST, "user_id": f"user{number}"} for number in range(12)])
    assert read_profile(path, RATING, "user11").user_id == "user11"
    with pytest.raises(
        ProfileError, match=r"more than 8 users\. Name one of them: user0, .*, user7, \.\.\.$"
    ):
        read_profile(path, RATING)
    with pytest.raises(
        ProfileError, match=r"a\.jsonl: no user 'user12'\. It holds: user0, .*, user7, \.\.\.$"
    ):
        read_profile(path, RATING, "user12")
    path = write(tmp_path / "b.jsonl", [FIRST, {**FIRST, "user_id": "v"}])
    with pytest.raises(ProfileError, match=r"holds 2 users\. Name one of them: u, v$"):
        read_profile(path, RATING)


def test_another_user_s_faults_do_not_matter(tmp_path):
    path = write(tmp_path / "a.jsonl", [FIRST, {**FIRST, "user_id": "v", "output": "9"}])
    assert read_profile(path, RATING, "u").user_id == "u"
    with pytest.raises(ProfileError, match="line 2"):
        read_profile(path, RATING, "v")


def test_users_without_history_can_be_left_out(tmp_path):
    rows = [{**USER, "profile": []}, {**USER, "user_id": "v"}]
    path = write(tmp_path / "a.jsonl", rows)
    assert "a.jsonl, line 1: user 'u' has no history. Give the user at least one example" in error_of(path)
    assert [profile.user_id for profile in read_profiles(path, RATING, skip_empty=True)] == ["v"]
    with pytest.raises(ProfileError, match="user 'u' has no history"):
        read_profile(path, RATING, "u")


# Bad input: where, what, and how to mend it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "6"}, "'output' is '6', not one of the task's labels. Accepted: 1, 2, 3, 4, 5"),
        ({"output": 2.5}, "'output' is '2.5', not one of the task's labels. Accepted: 1, 2"),
        (
            {"split": "query", "output": "good"},
            "'output' is 'good', not one of the task's labels. Accepted: 1",
        ),
        ({"output": None}, "no field 'output' (or 'score'). Add 'output'"),
        ({"input": None}, "no field 'input' (or 'text'). Add 'input'"),
        ({"input": None, "split": "query"}, "no field 'input' (or 'text'). Add 'input'"),
        ({"id": None}, "no field 'id'. Add 'id'"),
        ({"split": None}, "no field 'split'. Add 'split'"),
        ({"split": "train"}, "unknown split 'train'. Accepted: history, query"),
        ({"split": ["history"]}, "unknown split ['history']. Accepted: history, query"),
        ({"input": " \n"}, "'input' is empty. Fill it in, or remove the example"),
        ({"output": ""}, "'output' is empty. Fill it in"),
        ({"input": RATING.render(" "), "split": "query"}, "the query is empty. Fill it in"),
        ({"input": 5}, "'input' is 5. Make it a text"),
        ({"output": ["4"]}, "'output' is ['4']. Make it a text"),
        ({"output": True}, "'output' is True. Make it a text"),
        ({"id": 1.5}, "'id' is 1.5. Make it a text or a whole number"),
        ({"id": " "}, "'id' is empty. Fill it in"),
        ({"user_id": ["u"]}, "'user_id' is ['u']. Make it a text or a whole number"),
        ({"user_id": None}, "'user_id' is in some rows and not in others. Say in every row whose it is"),
        ({"time": "last week"}, "'time' is 'last week', not a date. Write times as 2024-09-03 or"),
        ({"time": "2024-13-01"}, "'time' is '2024-13-01', not a date. Write times as"),
        ({"time": 20.5}, "'time' is 20.5. Make it a date as text"),
        ({"date": [1]}, "'date' is [1]. Make it a date as text"),
        ({"id": "1"}, "the id '1' is given twice for one user. Give every example of a user"),
        ({"id": "1", "split": "query"}, "the id '1' is given twice for one user"),
        ({"task": "LaMP_5"}, "these examples are of task lamp-5, not lamp-3. Choose the task lamp-5"),
        ({"id": "\ud800"}, "'id' holds half a character. Write characters beyond U+FFFF"),
        ({"output": "x" * 99}, f"'output' is '{'x' * 56}..., not one of the task's labels"),
        ({"input": "\ud800"}, "'input' holds half a character. Write characters beyond U+FFFF"),
    ],
)
def test_each_bad_example_is_named(tmp_path, change, message):
    row = {**FIRST, "id": "2", **change}
    path = write(
        tmp_path / "a.jsonl", [FIRST, {key: value for key, value in row.items() if value is not None}]
    )
    assert f"{path}, line 2: {message}" in error_of(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": None}, "line 1: no field 'history' (or 'profile'). Add 'history'"),
        ({"profile": {}}, "line 1: 'profile' is {}. Make it a list"),
        ({"profile": ["a"]}, "line 1, history item 1: 'history item' is 'a'. Make it an object"),
        (
            {"profile": [{"id": "1", "text": "Good."}]},
            "line 1, history item 1: no field 'output' (or 'score')",
        ),
        ({"profile": [{"text": "Good.", "score": "1"}]}, "line 1, history item 1: no field 'id'"),
        ({"profile": USER["profile"] * 2}, "line 1, history item 2: the id '1' is given twice"),
        ({"gold": "9"}, "line 1: 'gold' is '9', not one of the task's labels. Accepted: 1, 2, 3, 4, 5"),
        ({"query": 3}, "line 1: 'query' is 3. Make it a text"),
        ({"more_queries": [{"id": "q"}]}, "line 1, query 1: no field 'query' (or 'input', 'text')"),
        ({"more_queries": [{"query": "x"}]}, "line 1, query 1: no field 'id'. Add 'id'"),
        ({"queries": "x"}, "line 1: 'queries' is 'x'. Make it a list"),
        ({"task": "lamp-2"}, "line 1: these examples are of task lamp-2, not lamp-3"),
    ],
)
def test_each_bad_user_is_named(tmp_path, change, message):
    row = {key: value for key, value in {**USER, **change}.items() if value is not None}
    assert f"a.jsonl, {message}" in error_of(write(tmp_path / "a.jsonl", [row]))


def test_a_user_on_two_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", [USER, USER])
    message = error_of(path)
    assert f"{path}, line 2: user 'u' is given twice, the first time in {path}, line 1. Put all" in message


def test_a_user_with_queries_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", [{**FIRST, "split": "query"}])
    assert "a.jsonl, line 1: user 'u' has no history. Give the user at least one example" in error_of(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ", line 1: empty. Accepted: LaMP's questions.json and outputs.json, JSON lines, CSV"),
        (b" \n \n", ", line 1: empty. Accepted:"),
        (b"hello\n", ", line 1: neither JSON nor CSV with a known header. Accepted:"),
        (b"[]", ": holds no examples. Accepted:"),
        (LINE + b'\n{"id": 2\n', ", line 2: not JSON (Expecting ',' delimiter, column 9). Write one JSON"),
        (b'{\n "id": 1\n "a": 2}\n', ", line 3: not JSON (Expecting ',' delimiter, column 2)"),
        (b'{"id": ' + b"9" * 5000 + b"}", ", line 1: not JSON (a number that is too long"),
        (LINE + b"\n5\n", ", line 2: found 5. Each row is an object"),
        (b"[5]", ", record 1: found 5. Each row is an object"),
        (
            b"[" + LINE + b'\n{"a": 2}]',
            ", line 2: not JSON ('{' where , or ] is due). Write one array of objects",
        ),
        (b"[\n" + LINE, ", line 2: not JSON (the end where , or ] is due). Write one array"),
        (b"[" + LINE + b',\n\n{"a" 2}]', ", line 3: not JSON (Expecting ':' delimiter). Write one array"),
        (
            b'{"task": "LaMP_3", "golds": []}',
            ", line 1: these are LaMP's outputs, without the questions. Give",
        ),
        (b'[{"input": "x", "profile": []}]', ", record 1: no field 'id'. Add the question's id"),
        (
            LINE + b'\n{"input": "caf\xe9"}',
            ", line 2: not UTF-8. Save the file as UTF-8",
        ),
        ("split,id".encode("utf-16"), ", line 1: not UTF-8. Save the file as UTF-8"),
        (b"\x1f\x8bnot gzip at all", ": cannot be read ("),
        (gzip.compress(LINE)[:-12], ": cannot be read ("),
        (
            b"split,id,input\nhistory,1,a,b\n",
            ", line 2: 4 cells where the header has 3. Put cells with commas",
        ),
        (b"split,id,id\n", ", line 1: the column 'id' is given twice. Rename one of them"),
        (b'split,id,input,output\nhistory,1,"a"b,2\n', ", line 2: not CSV ("),
        (b'split,id,input,output\nhistory,1,a,2\nhistory,2,"a\nb,2\n', ", line 3: not CSV ("),
        (b"split,id,input,output\nhistory,1,,2\n", ", line 2: 'input' is empty. Fill it in"),
        (b"split,id,input,output\n", ": holds no examples. Accepted:"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert f"{path}{message}" in error_of(path)


def test_a_path_that_is_not_there(tmp_path):
    assert error_of(tmp_path / "none.jsonl").endswith("none.jsonl: no such file or folder. Check the path")


def test_folders_that_hold_no_profile(tmp_path):
    assert "holds neither a questions file nor a dataset. Accepted: LaMP's" in error_of(tmp_path)
    for name in ("dev_questions.json", "train_questions.json"):
        (tmp_path / name).write_text("[]")
    message = error_of(tmp_path)
    assert "several questions files. Name one of them: dev_questions.json, train_questions.json" in message


def test_a_damaged_datasets_folder(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert "not a datasets folder that can be read" in error_of(tmp_path)
    assert error_of(tmp_path).endswith("Write it anew with save_to_disk")


def test_outputs_that_do_not_fit_the_questions(tmp_path):
    folder = lamp_folder(tmp_path, questions(), {"7": "2"})
    assert "questions.json, record 2: no output for question '8'. Give every question an output" in error_of(
        folder
    )
    lamp_folder(tmp_path, questions(), {"7": "2", "8": "6"})
    assert "questions.json, record 2: 'gold' is '6', not one of the task's labels" in error_of(folder)
    lamp_folder(tmp_path, questions(), {"7": "2", "8": "3"})
    assert "record 1: these examples are of task lamp-3, not rewrite" in error_of(folder, REWRITE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", ", line 1: not JSON (Expecting property name"),
        (b'\n"caf\xe9"', ", line 2: not UTF-8"),
        (b"5", ": has no list of golds. Write {"),
        (b'{"golds": [{"id": "7"}]}', ", record 1: has no id or no output. Write {"),
        (
            b'[{"id": 7, "output": "1"}, {"id": "7", "output": "1"}]',
            ", record 2: the id '7' is given twice. Keep",
        ),
    ],
)
def test_outputs_that_cannot_be_read(tmp_path, content, message):
    lamp_folder(tmp_path, questions())
    (tmp_path / "outputs.json").write_bytes(content)
    assert f"outputs.json{message}" in error_of(tmp_path)


# The samples


@pytest.mark.parametrize("user", sample_users(), ids=lambda user: user.user_id)
def test_every_sample_reads_and_holds_its_queries_out(user):
    profile = read_profile(sample_path(user.user_id), load_task(user.task))
    assert (profile.user_id, profile.task) == (user.user_id, user.task)
    assert user.about.endswith(".")
    assert len(profile.history) >= 40
    assert len(profile.queries) >= 10
    assert all(query.output for query in profile.queries)
    for query in profile.queries:
        nearest = max(fuzz.ratio(query.input, example.input) for example in profile.history)
        assert nearest < 85, f"{query.id} is a near copy of the history"


def test_there_are_two_samples_for_each_of_three_tasks():
    assert [(user.user_id, user.task) for user in sample_users()] == [
        ("maud", "lamp-3"),
        ("theo", "lamp-3"),
        ("ines", "lamp-5"),
        ("kofi", "lamp-5"),
        ("bo", "rewrite"),
        ("amara", "rewrite"),
    ]


def test_an_unknown_sample_names_those_there_are():
    with pytest.raises(
        ProfileError, match=r"no sample user 'zoe'\. Choose one of: maud, theo, ines, kofi, bo, amara"
    ):
        sample_path("zoe")
