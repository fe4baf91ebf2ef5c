"""The command line: quick help, exit codes, errors on one line, tables that fit, JSON that parses."""

import errno
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from tiny import Personal, tiny_personal

from toolkit import __version__
from toolkit.cli import VERBS, cli, main
from toolkit.commands import doctor
from toolkit.commands.common import WIDTH, print_table
from toolkit.commands.outcome import verification_rows
from toolkit.recipe import Recipe, read_recipe
from toolkit.samples import sample_path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "onnxruntime", "onnxruntime_genai", "executorch", "numpy", "peft", "onnx")
EVERYTHING = ["--help", "--version", *(f"{verb} --help" for verb in VERBS)]


@dataclass(frozen=True)
class Said:
    """What one call printed and its exit code."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error; nothing may be on standard output."""
        assert self.out == ""
        line, end = self.err[:-1], self.err[-1:]
        assert "\n" not in line and end == "\n", self.err
        assert line.startswith("Error: ")
        return line.removeprefix("Error: ")


@pytest.fixture
def edgeplm(capsys, tmp_path, monkeypatch):
    """Calls the command line in this process, in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, printed.out, printed.err)

    return call


@pytest.fixture
def profile(tmp_path):
    """A person's examples outside the current folder."""
    return sample_path("maud")


@dataclass(frozen=True)
class Shipped:
    """A tiny person's model and the bundle that `edgeplm export` made of it."""

    made: Personal
    bundle: Path


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    made = tiny_personal(folder)
    command = [
        *(sys.executable, "-m", "toolkit", "export", "--model", made.base.source, "--adapter", made.adapter),
        *("--out", folder / "bundle", "--precision", "fp32", "--context-length", "256", "--json"),
        *("--profile", sample_path("maud"), "--task", "lamp-3"),
    ]
    environment = {**os.environ, "EDGEPLM_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["bundle"] == str(folder / "bundle") and said["verification"]["passed"]
    return Shipped(made, folder / "bundle")


def edited(shipped: Shipped, folder: Path, edit) -> Path:
    """A copy of the bundle with another manifest."""
    import shutil

    copy = shutil.copytree(shipped.bundle, folder / "copy")
    data = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    edit(data)
    (copy / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    return copy


def too_wide(text: str) -> list[str]:
    return [line for line in text.splitlines() if len(line) > WIDTH]


# Help and version


def test_help_and_version_import_no_heavy_library():
    """Each in turn in one fresh interpreter: what is imported stays imported, so none may import any."""
    program = (
        "import sys, contextlib, io\n"
        "from toolkit.cli import main\n"
        "for arguments in sys.argv[1:]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main(arguments.split())\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, *EVERYTHING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_are_quick(option):
    """The best of three, so that a busy machine does not count."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "toolkit", option], capture_output=True, check=True, timeout=60)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 1.0


def test_every_verb_has_help(edgeplm):
    said = edgeplm("--help")
    assert said.status == 0 and said.err == ""
    for verb in VERBS:
        summary = cli.get_command(click.Context(cli), verb).short_help
        assert re.search(rf"^  {verb} +{re.escape(summary)}$", said.out, re.MULTILINE), verb
        of_verb = edgeplm(verb, "--help")
        assert of_verb.status == 0 and of_verb.out.startswith(f"Usage: edgeplm {verb} ")
        assert too_wide(of_verb.out) == []
    assert too_wide(said.out) == []


def test_verbs_and_modules_are_the_same():
    helpers = {"__init__", "common", "outcome", "augment_outcome", "sweep_outcome"}
    modules = {path.stem for path in (ROOT / "toolkit" / "commands").glob("*.py")}
    assert modules - helpers == set(VERBS)


def test_version(edgeplm):
    assert edgeplm("--version") == Said(0, f"edgeplm, version {__version__}\n", "")


def test_doctor_looks_for_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert set(doctor.NEEDED) == names


# Wrong usage: exit code 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["zork"], "No such command 'zork'"),
        (["--zork"], "No such option"),
        (["run"], "Missing argument 'RECIPE'"),
        (["run", "r.yaml", "--set", "zork"], "--set 'zork': write it as FIELD=VALUE"),
        (["personalize", "--out", "x"], "Give --profile"),
        (["personalize", "--out", "x", "--profile", "p"], "Give --task"),
        (["export", "--out", "x"], "Missing option '--adapter'"),
        (["export", "--out", "x", "--adapter", "a", "--profile", "p"], "--profile and --task go together"),
        (["bench", "b", "--repeat", "many"], "'many' is not a valid integer"),
        (["chat", "b", "--max-new-tokens", "0"], "0 is not in the range x>=1"),
        (["chat", "b", "--threads", "-1"], "-1 is not in the range x>=1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(edgeplm, arguments, said):
    answer = edgeplm(*arguments)
    assert answer.status == 2 and answer.out == "" and said in answer.err
    assert answer.err.startswith("Usage: edgeplm") and "Try 'edgeplm" in answer.err


# Errors that one can mend: exit code 1, one line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run none.yaml", "none.yaml: no such file. `edgeplm init` writes one"),
        ("run .", ".: is a folder"),
        (
            "personalize --out x --task lamp-3 --profile none.jsonl",
            "none.jsonl: no such file or folder. Check the path",
        ),
        ("personalize --out x --task lamp-9 --profile {profile}", "lamp-9: no such task; accepted: lamp-1, "),
        ("personalize --out x --task ./t.yaml --profile {profile}", "t.yaml: no such file. Check the path"),
        (
            "personalize --out x --task lamp-3 --profile {profile} --user zork",
            "no user 'zork'. It holds: maud",
        ),
        (
            "personalize --out x --task lamp-3 --profile {profile} --model ./none",
            "none: no such model source",
        ),
        ("personalize --out x --task lamp-3 --profile {profile} --set seed=-1", "seed: found -1; accepted"),
        (
            "finetune --out x --task lamp-3 --profile {profile} --synthetic none",
            "none/report.json: cannot be read",
        ),
        ("augment --out x --task lamp-3 --profile {profile} --teacher zork", "augment.teacher: found"),
        ("augment --out x --recipe none.yaml", "none.yaml: no such file"),
        ("demo --user zork", "no sample user 'zork'. Choose one of: maud, "),
        ("export --adapter none --out x", "none: no such folder"),
        ("export --adapter . --out x", ".: has no adapter_config.json"),
        ("inspect none", "none: no such folder. Give the folder that `edgeplm export` wrote"),
        ("inspect .", ".: is no bundle: it has no manifest.json. Make one with `edgeplm export`"),
        ("verify none", "none: no such folder"),
        ("chat none", "none: no such folder"),
        ("bench none", "none: no such folder"),
        ("bench none --device zork", "unknown device. Known: local"),
        ("eval none --profile {profile}", "none: no such folder"),
    ],
)
def test_an_error_that_one_can_mend(edgeplm, profile, arguments, said):
    answer = edgeplm(*(argument.format(profile=profile) for argument in arguments.split()))
    assert answer.status == 1 and said in answer.error
    assert {path.name for path in Path.cwd().rglob("*")} <= {"x", ".lock", "run.json"}


def test_an_unknown_user_of_several(edgeplm, profile):
    several = Path("all.jsonl")
    several.write_text(profile.read_text() + sample_path("theo").read_text())
    answer = edgeplm("personalize", "--out", "x", "--profile", several, "--task", "lamp-3")
    assert answer.status == 1 and "all.jsonl: holds 2 users. Name one of them: maud, theo" in answer.error


def test_a_broken_recipe_says_all_that_is_wrong_a_line_each(edgeplm):
    Path("r.yaml").write_text("task: lamp-3\nprofile: p\nzork: 1\nfinetune:\n  epochs: many\n")
    answer = edgeplm("run", "r.yaml")
    assert answer.status == 1 and answer.out == ""
    first, *problems = answer.err.splitlines()
    assert first == "Error: r.yaml: 2 problems"
    assert problems[0].startswith("  - line 3, zork: no such field")
    assert problems[1].startswith("  - line 5, finetune.epochs: found many")
    assert len(problems) == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"task: [", b"- a\n- b", b"task: lamp-3"])
def test_a_recipe_with_one_fault_says_it_on_one_line(edgeplm, content):
    Path("r.yaml").write_bytes(content)
    answer = edgeplm("run", "r.yaml")
    assert answer.status == 1
    if content != b"":  # nothing at all lacks two fields
        assert answer.error.startswith("r.yaml: ")


@pytest.mark.parametrize(
    "arguments",
    ["init {}", "export --adapter a --out {}", "finetune --profile {profile} --task lamp-3 --out {}",
     "augment --profile {profile} --task lamp-3 --out {}", "bench b --out {}"],
)  # fmt: skip
def test_an_existing_output_is_not_replaced_unless_asked(edgeplm, profile, arguments):
    Path("old").mkdir()
    Path("old/file").write_text("old")
    answer = edgeplm(*arguments.format("old", profile=profile).split())
    assert answer.status == 1
    assert answer.error == "old: already exists. Choose another name, or add --force to replace it"
    assert Path("old/file").read_text() == "old"


@pytest.mark.parametrize("arguments", ["run r.yaml --set out={}", "demo --out {}"])
def test_a_run_does_not_go_into_a_folder_of_something_else(edgeplm, profile, arguments):
    Path("r.yaml").write_text(f"task: lamp-3\nprofile: {profile}\n")
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("mine")
    answer = edgeplm(*arguments.format("thesis").split())
    assert answer.status == 1 and "thesis: is not empty and no run folder" in answer.err
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize("arguments", ["init {}/r.yaml", "run r.yaml --set out={}/run"])
@pytest.mark.parametrize("place", ["file", "/proc/none", "long" * 100])
def test_an_output_that_cannot_be_written(edgeplm, profile, arguments, place):
    Path("file").write_text("")
    Path("r.yaml").write_text(f"task: lamp-3\nprofile: {profile}\n")
    answer = edgeplm(*arguments.format(place).split())
    assert answer.status == 1
    assert place in answer.error and "Nothing half-written was kept" in answer.error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_half_way(edgeplm, monkeypatch, number):
    def fail(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    answer = edgeplm("init", "r.yaml")
    assert answer.status == 1
    assert answer.error == f"r.yaml: {os.strerror(number)}. Nothing half-written was kept."
    assert list(Path.cwd().iterdir()) == []


def test_interrupting_is_said_in_a_line(edgeplm, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.files.write_atomic", interrupt)
    answer = edgeplm("init")
    assert answer.status == 130 and answer.err.strip().startswith("Interrupted.")


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m toolkit doctor | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("python ") and done.stderr == ""


# init


def test_init_writes_a_recipe_that_is_read_back(edgeplm):
    answer = edgeplm("init")
    assert answer == Said(0, "Wrote recipe.yaml. Edit it, then: edgeplm run recipe.yaml\n", "")
    assert read_recipe(Path("recipe.yaml")) == Recipe(profile="profile.jsonl", task="lamp-3")
    assert "already exists" in edgeplm("init").error
    assert edgeplm("init", "--force", "--task", "rewrite").status == 0
    assert read_recipe(Path("recipe.yaml")).task == "rewrite"


def test_init_turns_paths_from_here_into_paths_from_the_recipe(edgeplm, tmp_path):
    """Relative paths start from the recipe's folder in a recipe, from the current one on the command line."""
    here = Path.cwd()
    assert edgeplm("init", "deep/er/r.yaml", "--profile", "me.jsonl", "--task", "./t.yaml").status == 0
    recipe = read_recipe(Path("deep/er/r.yaml"))
    assert recipe.profile == "../../me.jsonl" and recipe.profile_path.resolve() == here / "me.jsonl"
    assert Path(recipe.task_source).resolve() == here / "t.yaml"
    assert edgeplm("init", "deep/s.yaml", "--profile", tmp_path / "me.jsonl").status == 0
    assert read_recipe(Path("deep/s.yaml")).profile_path == tmp_path / "me.jsonl"
    assert edgeplm("init", "deep/t.yaml").status == 0
    assert read_recipe(Path("deep/t.yaml")).profile_path.resolve() == here / "deep" / "profile.jsonl"


# doctor and tables


def test_doctor(edgeplm):
    answer = edgeplm("doctor")
    assert answer.status == 0 and "edgeplm demo" in answer.out
    assert too_wide(answer.out) == []


def test_doctor_as_json(edgeplm, tmp_path):
    answer = edgeplm("doctor", "--json")
    report = json.loads(answer.out)
    assert answer.status == 0 and answer.err == ""
    assert (
        report["missing"] == [] and report["packages"]["torch"] and report["cache"] == str(tmp_path / "cache")
    )


def test_doctor_says_what_is_missing(edgeplm, monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "no-such-package"))
    answer = edgeplm("doctor")
    assert answer.status == 1 and re.search(r"no-such-package +MISSING", answer.out)
    assert "Missing: no-such-package.\nType: " in answer.err
    assert edgeplm("doctor", "--json").status == 1


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "b" * 200)],
        [("a" * 200, "b" * 200)],
        [("a" * 50, "b" * 50, "c" * 3), ("x", "y", "z")],
        [("a" * 30,) * 6],
        [("a\nb", "c\td\x1b[31m\x07"), ("", "")],
    ],
)
def test_a_table_fits_eighty_columns_and_a_line_a_row(capsys, rows):
    print_table(rows, header=["h" * 90, *("i" for _ in rows[0][1:])])
    printed = capsys.readouterr().out
    assert too_wide(printed) == []
    assert len(printed.splitlines()) == len(rows) + 1
    assert "\x1b" not in printed and "\x07" not in printed and "\t" not in printed


def test_a_table_is_aligned_and_says_where_it_was_cut(capsys):
    print_table([("one", "1"), ("three", "x" * 100)], header=("name", "value"))
    header, first, second = capsys.readouterr().out.splitlines()
    assert header == "name   value" and first == "one    1"
    assert second == f"three  {'x' * 72}…" and len(second) == WIDTH
    print_table([])
    assert capsys.readouterr().out == ""


def test_the_figures_of_a_verification_from_elsewhere():
    for strange in ({"passed": True}, {"survival": []}, {"survival": {"kl_mean": 1}}, {"kl_neutral": "x"}):
        assert verification_rows(strange) == [("", "its figures cannot be read")]


# A real bundle


@pytest.mark.parametrize("arguments", ["inspect {}", "verify {}", "eval {} --profile {profile}"])
def test_tables_about_a_bundle_fit(edgeplm, shipped, profile, arguments):
    answer = edgeplm(*arguments.format(shipped.bundle, profile=profile).split())
    assert (answer.status, answer.err) == (0, "")
    assert answer.out and too_wide(answer.out) == []


def test_inspect(edgeplm, shipped):
    said = edgeplm("inspect", shipped.bundle).out
    for part in ("maud", "fp32", "256 tokens", "lamp-3", "rank 4", "passed", "model.onnx"):
        assert part in said
    as_json = edgeplm("inspect", shipped.bundle, "--json")
    assert json.loads(as_json.out) == json.loads(
        (shipped.bundle / "manifest.json").read_text(encoding="utf-8")
    )


def test_inspect_of_a_bundle_that_somebody_made_up(edgeplm, shipped, tmp_path):
    def edit(data):
        data["name"] = "\x1b]0;title\x07" + "long" * 100
        data["base_model"]["source"] = "line\nline"
        data["verification"] = {"passed": True}

    folder = edited(shipped, tmp_path, edit)
    (folder / "extra.txt").write_text("not listed")
    answer = edgeplm("inspect", folder)
    assert answer.status == 0 and too_wide(answer.out) == [] and "\x1b" not in answer.out
    assert "its figures cannot be read" in answer.out
    assert answer.err == "Not in the manifest: extra.txt\n"


def test_verify_as_json(edgeplm, shipped):
    answer = edgeplm("verify", shipped.bundle, "--json")
    said = json.loads(answer.out)
    assert (answer.status, answer.err) == (0, "")
    assert said["passed"] and said["problems"] == [] and said["at_export"]["passed"]


def test_verify_of_a_bundle_that_answers_differently(edgeplm, shipped, tmp_path):
    def edit(data):
        data["golden"][0]["top_logits"][0] += 5

    folder = edited(shipped, tmp_path, edit)
    answer = edgeplm("verify", folder)
    assert answer.status == 3 and "Check fell short: golden prompt 1" in answer.err
    as_json = edgeplm("verify", folder, "--json")
    assert as_json.status == 3 and json.loads(as_json.out)["passed"] is False


@pytest.mark.parametrize("verb", ["verify", "chat", "bench", "eval"])
def test_a_damaged_bundle(edgeplm, shipped, tmp_path, profile, verb):
    folder = edited(shipped, tmp_path, lambda data: None)
    os.truncate(folder / "model.onnx.data", 1_000)
    answer = edgeplm(verb, folder, *(["--profile", profile] if verb == "eval" else []))
    assert answer.status == 1
    assert "model.onnx.data: has 1000 bytes, the manifest says" in answer.error


def test_eval_as_json(edgeplm, shipped, profile):
    answer = edgeplm("eval", shipped.bundle, "--profile", profile, "--json")
    said = json.loads(answer.out)
    assert (answer.status, answer.err) == (0, "")
    assert said["user"] == "maud" and said["metrics"].keys() == {"mae", "rmse"}
    assert len(said["queries"]) == len(said["answers"]) == len(said["per_query"])


def test_chat_answers_one_message(edgeplm, shipped):
    first, again = (
        edgeplm("chat", shipped.bundle, "--prompt", "Hi", "--max-new-tokens", 5) for _ in range(2)
    )
    assert first.status == 0 and first.err == "" and first == again
    assert edgeplm("chat", shipped.bundle, "--prompt", "Hi", "--plain", "--max-new-tokens", 5) != first


def test_chat_says_that_a_message_is_too_long(edgeplm, shipped):
    answer = edgeplm("chat", shipped.bundle, "--prompt", "long " * 400)
    assert "Too long:" in answer.err and "the context holds 256" in answer.err


def test_chat_reads_messages_from_a_pipe_whatever_their_bytes(shipped):
    command = [sys.executable, "-m", "toolkit", "chat", shipped.bundle, "--max-new-tokens", "3"]
    messages = b"Hi\n\n\xff \xc3\n<|im_end|>\n"
    done = subprocess.run(command, input=messages, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") >= 3


def test_export_does_not_replace_a_bundle_unless_asked(edgeplm, shipped, tmp_path):
    folder = edited(shipped, tmp_path, lambda data: data.update(name="old"))
    options = ["--model", shipped.made.base.source, "--adapter", shipped.made.adapter, "--out", folder]
    options += ["--precision", "fp32", "--context-length", "128"]
    assert "already exists" in edgeplm("export", *options).error
    assert json.loads(edgeplm("inspect", folder, "--json").out)["name"] == "old"
    answer = edgeplm("export", *options, "--force")
    assert (answer.status, answer.err) == (0, "") and too_wide(answer.out) == []
    assert json.loads(edgeplm("inspect", folder, "--json").out)["context_length"] == 128
