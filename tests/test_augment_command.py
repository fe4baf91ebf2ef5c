"""What `edgeplm augment` says of how many it kept, and what becomes of them."""

import json

import pytest
from scripted import json_lines, writer
from teacher_server import completion
from test_augment_privacy import HISTORY, PRIVATE
from tiny import tiny_model_folder

from toolkit.profiles import Example, Profile, write_profile

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"finetune.validation": "0.25", "finetune.epochs": "2", "finetune.learning_rate": "0.02"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def edgeplm(edgeplm_here, model, tmp_path):
    """Calls a verb on bo, of whom 6 examples train and 2 validate, in an empty folder."""
    write_profile(writer(), tmp_path / "bo.jsonl")

    def call(verb, server, *more, profile="bo.jsonl", **changes):
        fields = {
            "augment.model": "m", "augment.teacher": server.url, "augment.examples_per_request": "1",
            "augment.concurrency": "1", "augment.retries": "0", "augment.near_duplicate": "0.95",
            "augment.select.enabled": "false", **QUICK,
        } | {name.replace("__", "."): value for name, value in changes.items()}  # fmt: skip
        flags = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
        base = [verb, "--profile", profile, "--task", "rewrite", "--model", model]
        return edgeplm_here(*base, *flags, *more)

    return call


def good(number, body):
    thing = ("barrel", "candle", "dresser", "envelope", "fiddle", "gate", "hammock", "inkwell")[number % 8]
    return completion(
        json_lines((f"Could you carry that {thing} upstairs?", f"oi / {thing} / upstairs / ta"))
    )


def test_keeping_nothing_is_said_and_has_an_exit_code_of_its_own(serve, edgeplm, tmp_path):
    server = serve(lambda number, body: completion("I would rather not."))
    status, out, err = edgeplm("augment", server, "--out", "data", augment__max_requests=3)
    assert status == 3
    assert "kept             0" in out
    said = " ".join(err.split())
    assert "none of the 3 synthetic examples that were written was kept, most of them (3) because of" in said
    assert "max_requests (3) were spent with 0 of 6 examples kept" in said
    assert json.loads((tmp_path / "data" / "report.json").read_text())["dropped"]["format"] == 3
    status, out, _ = edgeplm("augment", server, "--out", "data", "--force", "--json", augment__max_requests=3)
    assert status == 3 and json.loads(out)["kept"] == 0
    status, _, err = edgeplm("augment", server, "--sweep", "1", "--out", "s", augment__max_requests=3)
    assert status == 1 and "none of the 3 synthetic examples" in err


def test_no_wish_for_examples_is_no_failure(serve, edgeplm):
    status, out, err = edgeplm("augment", serve(good), "--out", "data", "--examples", "0")
    assert (status, err) == (0, "") and "wanted    0" in out


def test_the_ratio_says_how_many_are_kept_and_how_many_of_them_are_trained_on(serve, edgeplm, tmp_path):
    server = serve(good)
    status, out, _ = edgeplm("augment", server, "--out", "data", "--ratio", "0.5")
    assert status == 0 and "wanted    3" in out and "kept      3" in out
    status, out, _ = edgeplm("augment", server, "--out", "more", "--ratio", "4", "--examples", "5", "--json")
    assert (json.loads(out)["wanted"], json.loads(out)["kept"]) == (5, 5)
    finetune = ["--synthetic", "more", "--json", "--set", "finetune.guard=false"]
    for ratio, trained, note in (("0.5", 9, True), ("4", 11, False)):
        status, out, _ = edgeplm("finetune", server, *finetune, "--out", f"a{ratio}", augment__ratio=ratio)
        assert status == 0
        assert [adapter["examples"] for adapter in json.loads(out)["adapters"]] == [6, trained]
        notes = " ".join(json.loads(out)["notes"])
        assert ("the first 3 of the 5 synthetic examples are used" in notes) == note
    # Without augmentation in the recipe the dataset is what it is.
    _, out, _ = edgeplm("finetune", server, *finetune, "--out", "all", augment__enabled="false")
    assert json.loads(out)["adapters"][1]["examples"] == 11


def test_a_run_that_keeps_nothing_trains_on_real_examples_and_says_so(serve, edgeplm, tmp_path):
    server = serve(lambda number, body: completion("I would rather not."))
    quick = {
        "augment__max_requests": 3, "export__precision": "fp32", "export__context_length": 448,
        "verify__prompts": 1, "verify__continuation": 2, "verify__min_correlation": -1, "verify__min_size": 0,
        "verify__max_size": 1000, "verify__max_kl": 1000, "verify__max_metric_loss": 1, "bench__repeats": 1,
        "bench__settle": 0, "bench__prompt_tokens": 8, "bench__decode_tokens": 4, "finetune__guard": "false",
        "finetune__retrieved": 0,
    }  # fmt: skip
    status, _, err = edgeplm("personalize", server, "--out", "run", **quick)
    assert status == 0, err
    assert "trained on real examples alone: none of the 3 synthetic examples" in " ".join(err.split())
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Trained on real examples alone: none of the 3 synthetic examples" in page
    both = {**quick, "finetune__choose": "real+synthetic"}
    status, _, err = edgeplm("personalize", server, "--out", "run", **both)
    assert status == 1 and "there are no synthetic examples to train on" in err


def test_nothing_private_leaves_in_a_round_about_failures(serve, edgeplm, tmp_path):
    history = tuple(Example(f"h{n}", text, output) for n, (text, output) in enumerate(HISTORY))
    query = Example("q1", "Please return the ladder to my shed.", "HELD OUT GOLD ANSWER / ta")
    write_profile(Profile("bo-secret-user", "rewrite", history, (query,)), tmp_path / "secret.jsonl")

    def answer(number, body):
        what = ("the long copper pipe", "a bucket of grout", "both radiators", "a green tile")[number % 4]
        text = f"Could <PERSON_1> carry {what} up?"
        return completion(json_lines((text, f"oi / <PERSON_1b> / {what} / up / ta")))

    server = serve(answer)
    status, out, err = edgeplm(
        "augment", server, "--out", "data", profile="secret.jsonl",
        augment__rounds=2, augment__ratio=0.8, finetune__validation=0.14,
    )  # fmt: skip
    assert status == 0, err
    sent = [json.loads(raw)["messages"][0]["content"] for raw in server.raw]
    assert any("does worst" in text for text in sent)
    assert b"\n".join(server.raw) + b"\n" == (tmp_path / "data.audit.jsonl").read_bytes()
    for private in (*PRIVATE, "HELD OUT", "shed", "bo-secret-user"):
        assert private not in "".join(sent)
    assert "round  about" in out and "2      2 that an adapter does worst on" in out
