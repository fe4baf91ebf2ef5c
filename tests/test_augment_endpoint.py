"""The OpenAI-compatible teacher against a real HTTP server on loopback."""

import json
import logging
import threading
import time

import pytest
from scripted import json_lines, rater, recipe, writer
from teacher_server import KEY, Server, completion, error

from toolkit.augment import augment, open_teachers
from toolkit.augment.endpoint import OpenAITeacher
from toolkit.augment.teachers import RequestFailedError
from toolkit.errors import TeacherError
from toolkit.recipe_augment import TeacherRecipe
from toolkit.tasks import load_task

RATING, REWRITE = load_task("lamp-3"), load_task("rewrite")
MESSAGES = [{"role": "user", "content": "hello"}]


def teacher_of(server, **options):
    return OpenAITeacher(server.url, "m", **({"timeout": 5, "retries": 0} | options))


def test_a_good_answer(serve):
    server = serve(lambda number, body: completion("good morning"))
    answer = teacher_of(server, temperature=0.3).complete(MESSAGES, seed=42)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("good morning", 7, 3)
    assert (answer.truncated, answer.notes) == (False, ())
    assert server.bodies[0] == {
        "model": "m",
        "messages": MESSAGES,
        "temperature": 0.3,
        "seed": 42,
        "max_tokens": 2048,
    }
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_truncated_answer_says_so(serve):
    server = serve(lambda number, body: completion("good mor", finish="length"))
    assert teacher_of(server).complete(MESSAGES, seed=1).truncated


def test_a_failure_of_the_server_is_tried_again(serve):
    server = serve(lambda number, body: (500, error("busy")) if number == 1 else completion("better"))
    assert teacher_of(server, retries=2).complete(MESSAGES, seed=1).text == "better"
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, error(f"Incorrect API key provided: {KEY}."), "refuses the key"),
        (403, error("no"), "refuses the key"),
        (404, error("The model `m` does not exist"), "has no such model or address"),
        (400, error("context too long"), r"fails \(status 400\)"),
        (429, error("quota"), "refuses further requests for now"),
        (500, error(f"trace: header Bearer {KEY}"), r"fails \(status 500\)"),
        (500, b"<html>", r"fails \(status 500\)"),
        (200, b"{not json", "gives an answer that cannot be read"),
        (200, b"\xff\xfe\x00", "gives an answer that cannot be read"),
        (200, b"", "gives an answer that cannot be read"),
        (200, {}, "not an OpenAI chat completion"),
        (200, [], "not an OpenAI chat completion"),
        (200, "text", "not an OpenAI chat completion"),
        (200, {"choices": []}, "not an OpenAI chat completion"),
        (200, {"choices": [{"message": None}]}, "not an OpenAI chat completion"),
    ],
)
def test_every_failure_is_one_line_without_the_key(serve, caplog, status, body, said):
    caplog.set_level(logging.DEBUG)
    server = serve(lambda number, sent: (status, body))
    teacher = teacher_of(server)
    with pytest.raises(TeacherError, match=said) as caught:
        teacher.complete(MESSAGES, seed=1)
    message = str(caught.value)
    assert message.startswith(f"m at 127.0.0.1:{server.url.split(':')[2]}: ")
    assert "\n" not in message
    assert caught.value.mend
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    for text in (message, repr(caught.value), repr(teacher), teacher.name, caplog.text):
        assert KEY not in text
        assert KEY[-4:] not in text


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Server(lambda number, body: None)
    server.close()
    with pytest.raises(TeacherError, match=r"cannot be reached.*Check augment\.teacher"):
        OpenAITeacher(server.url, "m", retries=0).complete(MESSAGES, seed=1)


def test_a_server_that_does_not_answer_in_time(serve):
    done = threading.Event()
    server = serve(lambda number, body: done.wait(5) and completion("late"))
    with pytest.raises(TeacherError, match="does not answer in time"):
        teacher_of(server, timeout=0.2).complete(MESSAGES, seed=1)
    done.set()


@pytest.mark.parametrize("setting", ["temperature", "seed"])
@pytest.mark.parametrize("how", ["param", "message"])
def test_a_setting_that_the_endpoint_refuses_is_left_out_with_a_note(serve, setting, how):
    refusal = (
        error("Unsupported value", param=setting) if how == "param" else error(f"'{setting}' is not known")
    )

    def script(number, body):
        return (400, refusal) if setting in body else completion("fine")

    server = serve(script)
    teacher = teacher_of(server)
    assert teacher.complete(MESSAGES, seed=1).notes == (
        f"the endpoint refuses the setting {setting}; its own default was used",
    )
    teacher.complete(MESSAGES, seed=2)
    assert [setting in body for body in server.bodies] == [True, False, False]


def test_several_requests_come_back_each_with_its_own_answer(serve):
    def script(number, body):
        time.sleep(0.05 if body["seed"] % 2 else 0)
        return completion(f"answer to {body['seed']}")

    teacher = teacher_of(serve(script), concurrency=3)
    answers = dict(teacher.complete_many([MESSAGES] * 7, list(range(7))))
    assert {index: answer.text for index, answer in answers.items()} == {
        n: f"answer to {n}" for n in range(7)
    }


def test_what_arrived_before_a_failure_is_kept(serve):
    server = serve(lambda number, body: (500, error("no")) if body["seed"] >= 2 else completion("yes"))
    answers = []
    with pytest.raises(TeacherError, match="status 500"):
        for pair in teacher_of(server, concurrency=1).complete_many([MESSAGES] * 20, list(range(20))):
            answers.append(pair)  # noqa: PERF402 - the failure comes in the middle
    assert [index for index, answer in answers if not isinstance(answer, TeacherError)] == [0, 1]
    assert all(isinstance(answer, RequestFailedError) for _, answer in answers[2:])
    assert len(server.bodies) < 20


def test_no_key_is_needed_on_loopback_but_elsewhere_it_is(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve(lambda number, body: completion("fine"))
    assert teacher_of(server).complete(MESSAGES, seed=1).text == "fine"
    with pytest.raises(TeacherError, match=r"environment variable MY_KEY is not set.*export MY_KEY="):
        OpenAITeacher("https://api.example.org/v1", "m", api_key_env="MY_KEY")


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-ключ", "sk-\x07"])
def test_a_key_that_cannot_be_one_is_refused_without_being_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(TeacherError, match="OPENAI_API_KEY holds characters that no key has") as caught:
        OpenAITeacher("https://api.example.org/v1", "m")
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["ftp://x/v1", "https://", "https://me:pw@x/v1", "https://x/v1?key=1", "https://x/#a", "http://[::1"],
)
def test_an_address_that_is_none_is_refused(monkeypatch, address):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(TeacherError, match="without user name, query or fragment") as caught:
        OpenAITeacher(address, "m")
    assert "pw" not in str(caught.value)


def test_a_proxy_never_sees_what_is_meant_for_loopback(serve, monkeypatch):
    server = serve(lambda number, body: completion("direct"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert teacher_of(server).complete(MESSAGES, seed=1).text == "direct"


def test_a_redirection_is_not_followed(serve):
    elsewhere = serve(lambda number, body: completion("caught"))
    location = {"Location": f"{elsewhere.url}/chat/completions"}
    server = serve(lambda number, body: (307, {}, location))
    with pytest.raises(TeacherError, match="status 307"):
        teacher_of(server).complete(MESSAGES, seed=1)
    assert elsewhere.bodies == []


def test_a_whole_augmentation_over_http(serve, monkeypatch):
    def script(number, body):
        return [
            completion(json_lines(("Could you carry the barrel up?", "oi / barrel / up / ta"))),
            (500, error("busy")),
            completion("{not an example"),
            completion(""),
            completion(None),
            completion(json_lines(("Please return the ladder to my shed.", "oi / ladder / shed / ta"))),
            completion(json_lines(("Could you sweep the porch today?", "oi / porch / sweep it / ta"))),
        ][number - 1]

    monkeypatch.setattr("toolkit.augment.plan._ROUND", 1)
    server = serve(script)
    teacher = teacher_of(server, retries=2)
    done = augment(writer(), REWRITE, teacher, recipe(examples=2, max_requests=9), seed=0)
    assert [example.output for example in done.kept] == [
        "oi / barrel / up / ta",
        "oi / porch / sweep it / ta",
    ]
    assert done.dropped == {
        "format": 3,
        "repetition": 0,
        "language": 0,
        "held_out": 1,
        "duplicate": 0,
        "near_duplicate": 0,
        "surplus": 0,
    }
    assert done.dropped_examples["held_out"][0]["input"] == "Please return the ladder to my shed."
    sent = json.dumps(server.bodies)
    assert "SECRET GOLD" not in sent
    assert "ladder" not in sent


def test_a_pattern_over_http_is_one_example_a_request_and_no_json(serve, monkeypatch):
    nouns = iter(["bell", "lamp", "rug", "vase", "oar", "drum", "sled", "harp"])
    server = serve(lambda number, body: completion(f"Score: 5\nText: The {next(nouns)} came, and I keep it."))
    settings = recipe(
        teacher=server.url, model="m", style="pattern", examples=3, examples_per_request=4, max_requests=8,
        near_duplicate=1.0, hide=("nothing",), concurrency=1,
    )  # fmt: skip
    done = augment(rater((0, 0, 0, 0, 5)), RATING, open_teachers(settings), settings, seed=0)
    assert [example.output for example in done.kept] == ["5", "5", "5"]
    assert done.requests == len(server.bodies) == 3
    assert all("response_format" not in body for body in server.bodies)
    assert all(body["messages"][-1]["role"] == "user" for body in server.bodies)


def test_how_a_teacher_is_asked_is_a_field_for_each(serve):
    server = serve(lambda number, body: completion("fine"))
    more = TeacherRecipe(teacher=server.url, model="small", style="pattern")
    settings = recipe(teacher=server.url, model="large", more_teachers=(more,), max_requests=None)
    assert [teacher.style for teacher in open_teachers(settings)] == ["instruction", "pattern"]
    # Four times as many as would do, were every request for as few examples as the second teacher's.
    assert settings.most_requests(6) == 24
    assert recipe(teacher=server.url, model="large", max_requests=None).most_requests(6) == 12


def test_the_recipe_opens_an_endpoint(serve):
    server = serve(lambda number, body: completion("fine"))
    settings = recipe(teacher=server.url, model="tiny-7", temperature=0.5)
    teacher = open_teachers(settings)[0]
    assert teacher.complete(MESSAGES, seed=1).text == "fine"
    assert server.bodies[0]["model"] == "tiny-7"
    assert server.bodies[0]["temperature"] == 0.5
    assert teacher.name.startswith("tiny-7 at 127.0.0.1:")
    assert teacher.style == "instruction"
