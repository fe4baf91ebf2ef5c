"""Nothing private leaves the machine: whole runs of the command line against a server on loopback."""

import json
import re
import sys
import traceback
from dataclasses import replace

import pytest
from click.testing import CliRunner
from scripted import ScriptedTeacher, json_lines, recipe
from teacher_server import KEY, completion, error
from tiny import tiny_model_folder

from toolkit.augment import AuditFile, augment, open_teachers, write_augmentation
from toolkit.cli import cli
from toolkit.errors import EdgePLMError, TeacherError
from toolkit.profiles import Example, Profile, write_profile
from toolkit.tasks import load_task

REWRITE = load_task("rewrite")
PRIVATE = ("Maud", "maud", "Perkins", "perkins", "020 7946 0958", "maud@example.org", "12 Acacia Avenue",
           "4111 1111", "secret-token", "Siobhan")  # fmt: skip
HISTORY = (
    ("Please bring Maud Perkins the kettle on Tuesday.", "oi / maud perkins / kettle / tuesday / ta"),
    ("Ring Maud on 020 7946 0958 about the ladder.", "oi / ring maud / 020 7946 0958 / ladder / ta"),
    ("Write to maud@example.org before Friday, please.", "oi / write / maud@example.org / friday / ta"),
    ("Deliver the boiler to 12 Acacia Avenue at noon.", "oi / boiler / 12 acacia avenue / noon / ta"),
    ("Charge the card 4111 1111 1111 1111 for the valves.", "oi / charge 4111 1111 1111 1111 / valves / ta"),
    ("Plan: https://example.org/?key=secret-token today.", "oi / https://example.org/?key=secret-token / ta"),
    ("Siobhan wants the tap mended by the weekend.", "oi / siobhan / tap / weekend / ta"),
)  # fmt: skip


@pytest.fixture
def person():
    history = tuple(Example(f"h{n}", text, output) for n, (text, output) in enumerate(HISTORY))
    query = Example("q1", "Please return the ladder to my shed.", "HELD OUT GOLD ANSWER / ta")
    return Profile("bo-secret-user", "rewrite", history, (query,))


@pytest.fixture
def command(person, tmp_path, monkeypatch):
    """Calls `edgeplm augment` on the person, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    write_profile(person, tmp_path / "bo.jsonl")
    model = tiny_model_folder(tmp_path)

    def call(server, *more):
        changes = {
            "augment.model": "m", "augment.teacher": server.url, "augment.examples": "2",
            "augment.shots": "7", "augment.examples_per_request": "1",
            "augment.concurrency": "1", "augment.retries": "0", "augment.select.enabled": "false",
        }  # fmt: skip
        flags = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
        base = ["augment", "--profile", "bo.jsonl", "--task", "rewrite", "--model", str(model)]
        return CliRunner().invoke(cli, [*base, *flags, *more])

    return call


def answer(number, body):
    what = ("the long copper pipe", "a bucket of grout", "both radiators")[number % 3]
    return completion(
        json_lines((f"Could <PERSON_1> carry {what} up?", f"oi / <PERSON_1b> / {what} / up / ta"))
    )


def test_the_audit_file_holds_exactly_what_left_and_nothing_private_is_in_it(serve, command, tmp_path):
    server = serve(answer)
    done = command(server, "--out", "data")
    assert done.exit_code == 0, done.output
    audit = (tmp_path / "data.audit.jsonl").read_bytes()
    assert sorted(audit.splitlines()) == sorted(server.raw)
    assert server.raw
    for private in (*PRIVATE, "HELD OUT", "shed", "bo-secret-user"):
        assert private.encode() not in audit
    said = server.bodies[0]["messages"][0]["content"]
    assert "Please bring <PERSON_1> the kettle on Tuesday." in said
    assert "oi / <PERSON_1b> / kettle / tuesday / ta" in said
    assert "data.audit.jsonl" in done.output


def test_what_comes_back_is_about_the_person_again(serve, command, tmp_path):
    command(serve(answer), "--out", "data")
    rows = [json.loads(line) for line in (tmp_path / "data" / "synthetic.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all("Maud Perkins" in row["input"] and "maud perkins" in row["output"] for row in rows)
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["hidden"]["phone"] == 1
    assert report["audit"].endswith("data.audit.jsonl")


def test_a_dry_run_prints_the_bytes_and_sends_nothing(serve, command, tmp_path, monkeypatch):
    server = serve(answer)
    monkeypatch.delenv("OPENAI_API_KEY")
    shown = command(server, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert server.raw == []
    assert not (tmp_path / "data.audit.jsonl").exists()
    bodies = [line for line in shown.stdout_bytes.splitlines() if line.startswith(b"{")]
    assert "Nothing was sent" in shown.stderr
    command(server, "--out", "data")
    assert server.raw == bodies[: len(server.raw)]
    assert len(bodies) == 2  # one for each example that is wanted


def test_a_dry_run_of_a_local_teacher_has_nothing_to_show(command, person, tmp_path):
    base = ["augment", "--profile", "bo.jsonl", "--task", "rewrite", "--dry-run"]
    assert "Nothing would be sent" in CliRunner().invoke(cli, base).stderr


@pytest.mark.parametrize("sent", [True, False])
def test_upload_never_makes_a_network_teacher_an_error(serve, command, sent):
    server = serve(answer)
    refused = command(
        server, "--set", "augment.upload=never", *(["--out", "data"] if sent else ["--dry-run"])
    )
    assert refused.exit_code != 0
    assert isinstance(refused.exception, EdgePLMError)
    assert "augment.upload is never" in str(refused.exception)
    assert server.raw == []


def test_without_the_detector_nothing_is_sent(serve, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    server = serve(answer)
    refused = command(server, "--out", "data")
    assert "pip install 'edgeplm[privacy]'" in str(refused.exception)
    assert server.raw == []


@pytest.mark.parametrize(
    "script",
    [
        answer,
        lambda n, b: (401, error(f"Incorrect API key: {KEY}")),
        lambda n, b: (500, error(f"Bearer {KEY}")),
    ],
    ids=["good", "refused", "broken"],
)
def test_the_key_is_in_nothing_that_a_run_writes_or_says(serve, command, tmp_path, caplog, script):
    caplog.set_level(0)
    server = serve(script)
    done = command(server, "--out", "data")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    said = [done.output, caplog.text, repr(done.exception)]
    if done.exc_info:
        said.append("".join(traceback.format_exception(*done.exc_info)))
    for text in said:
        assert KEY not in text
        assert KEY[3:] not in text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "data.audit.jsonl" for path in written)
    for path in written:
        assert KEY.encode() not in path.read_bytes(), path


def test_a_placeholder_that_the_teacher_made_up_is_no_example(person):
    teacher = ScriptedTeacher(
        lambda *_: json_lines(("Could <PERSON_77> carry it up?", "oi / carry it up / ta")), network=True
    )
    done = augment(person, REWRITE, teacher, recipe(examples=1, max_requests=1), seed=0)
    assert done.kept == ()
    assert done.dropped_examples["format"][0]["reason"] == "<PERSON_77> stands for nothing"


def test_a_local_teacher_sees_texts_as_they_are(person):
    teacher = ScriptedTeacher(lambda *_: "no")
    augment(person, REWRITE, teacher, recipe(max_requests=3, shots=7), seed=0)
    assert "Maud Perkins" in teacher.everything()


def test_labels_are_not_hidden():
    texts = ("Maud was late, and dull.", "A fine book by Bert.", "Nothing happens, twice.")
    history = tuple(Example(f"h{n}", text, str(n + 1)) for n, text in enumerate(texts))
    profile = Profile("m", "lamp-3", history, ())
    teacher = ScriptedTeacher(lambda *_: "no", network=True)
    augment(profile, load_task("lamp-3"), teacher, recipe(max_requests=1), seed=0)
    assert '"output": "1"' in teacher.everything()
    assert "Maud" not in teacher.everything()


def test_an_audit_file_that_cannot_be_written_stops_the_request(serve, tmp_path, person):
    server = serve(answer)
    (tmp_path / "folder").mkdir()
    settings = recipe(teacher=server.url, model="m")
    teachers = open_teachers(settings, audit=AuditFile(tmp_path / "folder"))
    with pytest.raises(EdgePLMError, match=r"cannot be written.*so nothing is sent"):
        augment(person, REWRITE, teachers, settings, seed=0)
    assert server.raw == []


def test_every_attempt_is_in_the_audit_file(serve, tmp_path):
    server = serve(lambda number, body: (500, error("busy")) if number < 3 else completion("fine"))
    settings = recipe(teacher=server.url, model="m", retries=2)
    (teacher,) = open_teachers(settings, audit=AuditFile(tmp_path / "audit.jsonl"))
    teacher.complete([{"role": "user", "content": "hello"}], seed=1)
    assert (tmp_path / "audit.jsonl").read_bytes().splitlines() == server.raw
    assert len(server.raw) == 3


def test_several_teachers_and_only_the_network_one_sees_placeholders(person):
    near, far = ScriptedTeacher(lambda *_: "no", name="near"), ScriptedTeacher(lambda *_: "no", network=True)
    augment(person, REWRITE, [near, far], recipe(max_requests=4, shots=7), seed=0)
    assert "Maud" in near.everything()
    assert not re.search("|".join(map(re.escape, PRIVATE)), far.everything())


def test_a_recipe_lists_its_teachers(serve):
    one, two = serve(answer), serve(answer)
    settings = replace(
        recipe(teacher=one.url, model="a"),
        more_teachers=({"teacher": two.url, "model": "b", "prompt_price": 2.0},),
    )
    assert [teacher.name.split(" at ")[0] for teacher in open_teachers(settings)] == ["a", "b"]
    with pytest.raises(EdgePLMError, match="more_teachers 1: model: missing, and the teacher is an address"):
        replace(settings, more_teachers=({"teacher": two.url},))
    with pytest.raises(EdgePLMError, match="accepted: null, or its prices"):
        replace(settings, max_cost=1.0)
    with pytest.raises(EdgePLMError, match=r"augment\.upload is never"):
        recipe(upload="never", more_teachers=({"teacher": two.url, "model": "b"},))
    assert type(settings).from_dict(settings.as_dict(), "test") == settings


def test_a_wrong_kind_to_hide_is_refused_with_what_is_accepted():
    with pytest.raises(EdgePLMError, match="list of some of url, email"):
        recipe(hide=("names",))
    with pytest.raises(TeacherError, match="is no regular expression"):
        profile = Profile("m", "rewrite", (Example("h", "a", "b"),), ())
        augment(
            profile, REWRITE, ScriptedTeacher(lambda *_: "", network=True), recipe(patterns=("(",)), seed=0
        )


def test_finetune_does_not_train_on_a_set_that_leaks(person, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_profile(person, tmp_path / "bo.jsonl")
    leak = json_lines(("Kindly send word to all of us tomorrow.", "held out / gold answer, ta"))
    elsewhere = replace(person, queries=())
    made = augment(elsewhere, REWRITE, ScriptedTeacher(lambda *_: leak), recipe(examples=1), seed=0)
    assert len(made.kept) == 1
    (tmp_path / "data").mkdir()
    write_augmentation(made, tmp_path / "data")
    base = [
        "finetune",
        "--profile",
        "bo.jsonl",
        "--task",
        "rewrite",
        "--synthetic",
        "data",
        "--out",
        "adapters",
    ]
    refused = CliRunner().invoke(cli, [*base, "--synthetic", "data"])
    assert "synthetic-0001: the synthetic example repeats a held-out query" in str(refused.exception)
    assert not (tmp_path / "made").exists()
