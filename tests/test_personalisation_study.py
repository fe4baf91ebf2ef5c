"""The personalisation study on tiny models: a real server, real adapters, every arm, paired differences."""

import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import tiny_model_folder
from toy import PROFILE, QUERIES, TASK, examples

from benchmarks.studies.people import Person
from benchmarks.studies.personalisation import command, personalisation_study
from benchmarks.studies.personalisation_arms import (
    BASE,
    MEDIAN,
    REAL_RETRIEVAL,
    RETRIEVAL,
    SHIPPED,
    SYNTHETIC_RETRIEVAL,
    UNSELECTED,
    Setting,
    study_person,
    unselected_examples,
)
from benchmarks.studies.personalisation_drawing import drawing
from benchmarks.studies.personalisation_outcome import markdown, notes, summary, terminal_rows
from benchmarks.studies.teacher import teacher_server
from toolkit.augment import Augmentation
from toolkit.errors import EdgePLMError
from toolkit.finetune import REAL, SYNTHETIC
from toolkit.models import resolve_model
from toolkit.profiles import Example, Profile, write_profile
from toolkit.progress import SILENT
from toolkit.tasks import load_task

pytestmark = pytest.mark.usefixtures("one_thread")
pytest.importorskip("llguidance")
LABELS = {
    "type": "object",
    "properties": {"output": {"type": "string", "enum": ["one", "two", "three"]}},
    "required": ["output"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # Room for a teacher's prompt in the tiny tokenizer's many tokens.
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


def ask(address: str, **body: object) -> tuple[int, dict]:
    data = json.dumps({"messages": [{"role": "user", "content": "Say it."}], **body}).encode()
    request = urllib.request.Request(f"{address}/chat/completions", data)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_server_honours_schema_seed_and_limit(model: Path) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": LABELS}}
    with teacher_server(str(model)) as address:
        texts = {}
        for seed in (*range(6), 0):
            status, answer = ask(address, seed=seed, max_tokens=60, response_format=form)
            assert status == 200
            (choice,) = answer["choices"]
            text = choice["message"]["content"]
            assert json.loads(text)["output"] in ("one", "two", "three")
            assert choice["finish_reason"] == "stop"
            assert texts.setdefault(seed, text) == text  # the same seed draws the same
        assert len(set(texts.values())) > 1
        _, answer = ask(address, max_tokens=3, temperature=0)
        assert answer["usage"]["completion_tokens"] <= 3
        for bad, param in (
            ({"messages": []}, "messages"),
            ({"max_tokens": 10_000}, "max_tokens"),
            ({"temperature": "hot"}, "temperature"),
            ({"stream": True}, "stream"),
            ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}},
             "response_format"),
        ):  # fmt: skip
            status, answer = ask(address, **bad)
            assert (status, answer["error"]["param"]) == (400, param), answer
        with urllib.request.urlopen(f"{address}/models", timeout=10) as answer:
            assert json.load(answer)["data"][0]["id"] == str(model)
    with pytest.raises(urllib.error.URLError):  # the process has ended
        urllib.request.urlopen(f"{address}/models", timeout=10)


def test_a_server_without_a_model_says_so() -> None:
    with pytest.raises(EdgePLMError, match="ended with status 1"), teacher_server("./nowhere"):
        pass


def made_of(kept: tuple[Example, ...]) -> Augmentation:
    return Augmentation(kept, 8, 8, {"format": 2}, {}, 10, 10, "t", requests=2)


def setting_of(model: Path, **more: object) -> Setting:
    return Setting(people=None, task=TASK.name, model=str(model), teacher=str(model), epochs=4, **more)


def test_every_arm_is_asked_and_adapters_change_the_answers(model: Path, tmp_path: Path) -> None:
    setting = setting_of(model, unselected=False, retrieved=2, history=8)
    recipe = setting.recipe()
    recipe = replace(recipe, finetune=replace(recipe.finetune, learning_rate=0.02, guard=False))
    person = setting.limited(Person(PROFILE, TASK))
    base = resolve_model(str(model))
    kept = examples("no, never", 8, "s")
    row = study_person(base, person, made_of(kept), setting, recipe, tmp_path)
    arms = {arm: found["answers"] for arm, found in row["arms"].items()}
    assert set(arms) == {
        BASE, RETRIEVAL, REAL, SYNTHETIC, REAL_RETRIEVAL, SYNTHETIC_RETRIEVAL, SHIPPED
    }  # fmt: skip
    assert arms[REAL] != arms[BASE] and arms[SYNTHETIC] != arms[REAL]
    assert arms[RETRIEVAL] != arms[BASE]
    assert arms[SHIPPED] == arms[row["validation"]["chosen"]]
    assert row["arms"][REAL]["metrics"]["rouge_1"] > row["arms"][BASE]["metrics"]["rouge_1"]
    assert not list(tmp_path.iterdir())  # no adapter is left behind
    # Without synthetic examples the real-only adapter is what a run would have.
    row = study_person(base, person, made_of(()), setting, recipe, tmp_path)
    assert row["arms"][SYNTHETIC]["answers"] == row["arms"][REAL]["answers"]


def test_what_is_limited(model: Path) -> None:
    long = tuple(replace(each, input=each.input + " and so on" * 9) for each in PROFILE.history)
    profile = Profile("anna", TASK.name, long, (Example("q0", "unknown", ""), *QUERIES))
    limited = setting_of(model, history=3, queries=1, longest=12).limited(Person(profile, TASK)).profile
    assert [each.id for each in limited.history] == [each.id for each in PROFILE.history[-3:]]  # the latest
    assert all(len(each.input) <= 12 for each in limited.history)
    assert [each.id for each in limited.queries] == ["query-1"]  # one with a gold answer


def test_unselected_examples_are_whatever_can_be_trained_on(model: Path, tmp_path: Path) -> None:
    task = load_task("lamp-3")
    history = tuple(Example(str(n), f"A film, number {n}, by Ada Lovelace.", "4") for n in range(5))
    profile = Profile("ann", task.name, history, (Example("q", "Held out, this one.", "2"),))
    texts = ["junk", "held out this one", "", "<PERSON_1> again", "other", "one too many"]
    found = [{"input": text, "output": "3"} for text in texts] + [{"input": "no label", "output": "nine"}]
    folder = tmp_path / "synthetic" / "ann"
    folder.mkdir(parents=True)
    answer = json.dumps({"text": json.dumps({"examples": found})})
    (folder / "teacher-answers.jsonl").write_text(answer + "\n")
    recipe = setting_of(model, examples=3, teacher_style="instruction").recipe()
    chosen = unselected_examples(profile, task, recipe, tmp_path)
    assert [each.input for each in chosen] == ["junk", "Ada Lovelace again", "other"]
    assert {each.output for each in chosen} == {"3"}


def test_a_study_goes_on_and_refuses_another(model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    people = tmp_path / "anna.jsonl"
    write_profile(PROFILE, people)
    out = tmp_path / "out"
    line = (
        f"--out {out} --people {people} --task rewrite --model {model} --teacher {model} --epochs 1 "
        "--requests 2 --examples 2 --retrieved 1 --set augment.select.embedding=base"
    )
    done = CliRunner().invoke(command, line.split())
    assert done.exit_code == 0, done.output
    assert all(len(text) <= 80 for text in done.output.splitlines() if not text.startswith("Written"))
    study = json.loads((out / "personalisation.json").read_text(encoding="utf-8"))
    (row,) = study["people"]
    assert row["synthetic"]["requests"] > 0
    audit = (out / "synthetic" / "anna" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(audit) >= row["synthetic"]["requests"]  # what was sent to the server was audited
    assert all("about the other room" not in body for body in audit)  # and no query is in it
    assert "commit" in study["about"]["edgeplm"] and study["setting"]["epochs"] == 1
    assert (out / "personalisation.svg").read_text().startswith("<svg")
    assert "| real+synthetic |" in (out / "personalisation.md").read_text()
    before = (out / "people" / "anna.json").stat().st_mtime_ns
    assert CliRunner().invoke(command, line.split()).exit_code == 0
    assert (out / "people" / "anna.json").stat().st_mtime_ns == before
    assert CliRunner().invoke(command, [*line.split(), "--so-far"]).exit_code == 0
    done = CliRunner().invoke(command, [*line.split(), "--unselected"])  # added to what is there
    assert done.exit_code == 0, done.output
    (more,) = json.loads((out / "personalisation.json").read_text(encoding="utf-8"))["people"]
    assert more["arms"].pop(UNSELECTED)["answers"]
    assert more["arms"] == row["arms"]
    base = resolve_model(str(model))
    setting = Setting(**study["setting"] | {"changes": tuple(study["setting"]["changes"])})
    with pytest.raises(EdgePLMError, match="another epochs"):
        personalisation_study(base, [Person(PROFILE, TASK)], replace(setting, epochs=2), out, SILENT)


def row_of(user: str, **mae: float) -> dict:
    names = {"base": BASE, "real": REAL, "both": SYNTHETIC, "raw": UNSELECTED, "median": MEDIAN}
    return {
        "user": user, "queries": 4, "history": 10,
        "synthetic": {"kept": 3, "answered": 9, "requests": 2, "prompt_tokens": 5, "completion_tokens": 5,
                      "unselected": 3, "dropped": {"format": 6}},
        "validation": {"chosen": SYNTHETIC, "withheld": user == "b"},
        "arms": {names[name]: {"metrics": {"mae": value, "rmse": 2 * value}} for name, value in mae.items()},
    }  # fmt: skip


def test_differences_are_paired_and_the_verdict_knows_the_direction() -> None:
    task = load_task("lamp-3")
    shifts = {"a": 0.1, "b": -0.1} | dict.fromkeys("cdefghij", 0.0)
    rows = [
        row_of(
            user,
            base=level,
            real=level - 0.5,
            both=level - 0.5 + shift,
            raw=level + 0.5,
            median=level + shift,
        )
        for level, (user, shift) in enumerate(shifts.items(), 1)
    ]
    found = summary(rows, task)
    mae = found["metrics"]["mae"]
    assert mae["arms"][BASE]["estimate"] == pytest.approx(5.5)
    against = mae["against_base"][REAL]
    # People differ by far more than the arms do; pairs do not.
    assert (against["estimate"], against["low"], against["high"]) == pytest.approx((-0.5, -0.5, -0.5))
    assert (against["better"], against["same"], against["worse"]) == (10, 0, 0)
    said = {(row["arm"], row["other"]): row for row in mae["comparisons"]}
    assert (said[SYNTHETIC, REAL]["better"], said[SYNTHETIC, REAL]["worse"]) == (1, 1)
    assert (SYNTHETIC, RETRIEVAL) not in said
    text = "\n".join(notes(found))
    assert "MAE, real against base: better, −0.500" in text
    assert "MAE, real+synthetic against real: not told apart" in text
    assert "MAE, real+synthetic against real+unselected: better" in text
    assert "MAE, real against base: too few people" in "\n".join(notes(summary(rows[:9], task)))
    assert found["synthetic"]["dropped"] == {"format": 60} and found["synthetic"]["withheld"] == 1
    header, *cells = terminal_rows(found, "mae")
    assert header[1] == "MAE"
    columns = zip(header, *cells, ("real+synthetic, retrieval", *[""] * 4), strict=True)
    assert sum(max(map(len, column)) for column in columns) + 2 * 4 <= 80
    assert [row[0] for row in cells] == [MEDIAN, BASE, REAL, SYNTHETIC, UNSELECTED]
    study = {"about": {"begun": "today"}, "setting": {"task": "lamp-3"}, "summary": found}
    assert "| real | base | −0.500 [−0.500, −0.500] | 10 / 0 / 0 | better |" in markdown(study)
    plot = drawing(found, "mae", "critics")
    assert plot.count("<circle") == 9 and 'class="unsure"' in plot


def test_the_commit_task_is_a_valid_one() -> None:
    task = load_task(str(Path(__file__).parents[1] / "benchmarks" / "studies" / "commit-subject.yaml"))
    assert task.raw_input("Generate a subject line for the following commit message: Body.") == "Body."
