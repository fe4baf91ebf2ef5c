"""What README and docs say: generated pages, links, commands, snippets, examples and tables."""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import typing
from pathlib import Path

import click
import pytest
import yaml

from toolkit.cli import VERBS, cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
ROOMS = ("toolkit", "exporters", "runtimes", "benchmarks")
NOT_YET = {"--dry-run"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, *languages):
    """The fenced code blocks of a page in the given languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in languages]


def prose(page):
    """A page without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def code_spans(page):
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def section(page, title):
    """The text under a heading, up to the next one of its level."""
    level = re.search(rf"^(#+) {re.escape(title)}$", text_of(page), re.MULTILINE)
    rest = text_of(page)[level.end() :]
    return re.split(rf"^#{{1,{len(level.group(1))}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_column(text):
    """The names in code style in the first column of a section's tables."""
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


# Generated pages


@pytest.mark.parametrize("name", ["commands.md", "recipe.md"])
def test_generated_page_is_up_to_date(name):
    from toolkit.reference import reference_pages

    # Without blanks and line ends: versions of click break lines differently.
    written, made = ("".join(text.split()) for text in (text_of(DOCS / name), reference_pages()[name]))
    assert written == made, f"docs/{name} is out of date; type: make docs"


def test_generated_pages_are_written(tmp_path):
    from click.testing import CliRunner

    from toolkit.reference import main, reference_pages

    outcome = CliRunner().invoke(main, [str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert {path.name: text_of(path) for path in tmp_path.iterdir()} == reference_pages()
    assert max(map(len, text_of(tmp_path / "commands.md").splitlines())) <= 110


# Links, addresses, paths


def anchors(page):
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_relative_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: no heading for {target}"


def test_every_page_is_in_the_index():
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)", text_of(DOCS / "README.md")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


@each_page
def test_no_private_path_or_registry_address(page):
    # /data/local/tmp is Android's, on every phone.
    private = r"(?<!/data/local)/(?:work|root|home|tmp)/|pypi\.org|pythonhosted|download\.pytorch"
    found = re.findall(private, text_of(page))
    assert not found


# Commands


def shell_lines(page):
    for code in blocks(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            yield re.split(r"\s[<>|&]", line)[0].strip()


def arguments_of(line):
    """What a line gives to `edgeplm`; None if it is another program's."""
    match = re.match(r"edgeplm |\S*python3? -m toolkit ", line)
    return shlex.split(line[match.end() :]) if match else None


@each_page
def test_commands_in_blocks_parse_as_they_stand(page):
    from toolkit.commands.common import parse_changes
    from toolkit.recipe import Recipe, replace_fields
    from toolkit.tasks import load_task

    top = click.Context(cli)
    for line in shell_lines(page):
        arguments = arguments_of(line)
        if arguments is None:
            continue
        verb, *rest = arguments
        assert verb in VERBS, line
        try:
            context = cli.get_command(top, verb).make_context(verb, rest, parent=top)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: {line}: {error.format_message()}")
        replace_fields(Recipe(profile="p", task="t"), parse_changes(context.params.get("changes", ())))
        task = context.params.get("task")
        assert task is None or task.endswith(".yaml") or load_task(task)


@each_page
def test_make_targets_exist(page):
    makefile = text_of(ROOT / "Makefile")
    for line in [*shell_lines(page), *code_spans(page)]:
        for target in re.findall(r"^make ([a-z][a-z-]*)", line):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def options_of(verb):
    command = cli.get_command(click.Context(cli), verb) if verb else cli
    below = getattr(command, "commands", {}).values() if verb else ()
    parameters = [parameter for each in (command, *below) for parameter in each.params]
    names = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"-h", "--help"}


@each_page
def test_commands_and_options_in_prose_exist(page):
    every = set().union(*map(options_of, ["", *VERBS])) | NOT_YET
    for span in code_spans(page):
        words = span.split()
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        if words[0] == "edgeplm" and len(words) > 1 and words[1] != "VERB":
            verb = "" if words[1].startswith("-") else words[1]
            assert verb in ("", *VERBS), f"{page.name}: `{span}`"
            assert given <= options_of(verb), f"{page.name}: `{span}`"
        elif words[0].startswith("--"):
            assert given <= every, f"{page.name}: `{span}`"


def test_readme_lists_every_verb():
    rows = re.findall(r"^\| `edgeplm (\w+)` \|", text_of(ROOT / "README.md"), re.MULTILINE)
    assert rows == list(VERBS)


def test_readme_describes_the_person_of_the_demo():
    from toolkit.commands.demo import DEFAULT_USER
    from toolkit.profiles import read_profile
    from toolkit.samples import sample_user
    from toolkit.tasks import load_task

    person = sample_user(DEFAULT_USER)
    profile = read_profile(person.path, load_task(person.task))
    text = " ".join(text_of(ROOT / "README.md").split())
    assert f"`runs/demo-{DEFAULT_USER}/report.html`" in text
    assert f"learns from {len(profile.history)} of" in text
    assert re.search(rf"{len(profile.queries)} \w+ that it has not seen", text)


# Python


def imported(tree):
    """What a snippet imports, by the name that it has there; AssertionError if it does not exist."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert importlib.util.find_spec(alias.name), alias.name
                if alias.name == "onnxruntime_genai":
                    names[alias.asname or alias.name] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            if node.module.partition(".")[0] not in ROOMS:
                assert importlib.util.find_spec(node.module), node.module
                continue
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
                names[alias.asname or alias.name] = getattr(module, alias.name)
    return names


@each_page
def test_python_snippets_compile_and_call_what_exists(page):
    tree = ast.parse("\n".join(blocks(page, "python")))
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            known = names.get(node.value.id)
            assert not inspect.ismodule(known) or hasattr(known, node.attr), ast.unparse(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            keywords = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(names[node.func.id]).bind(*node.args, **keywords)


def test_app_developers_page_uses_none_of_our_code():
    tree = ast.parse("\n".join(blocks(DOCS / "app-developer.md", "python")))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not {module.partition(".")[0] for module in modules} & set(ROOMS)


# Examples of files


@each_page
def test_yaml_examples_are_recipes_or_tasks(page, tmp_path):
    from toolkit.recipe import read_recipe
    from toolkit.tasks import load_task

    for code in blocks(page, "yaml"):
        file = tmp_path / "example.yaml"
        file.write_text(code, encoding="utf-8")
        if "prompt" in yaml.safe_load(code):
            load_task(file)
        else:
            read_recipe(file)


@pytest.mark.parametrize(("page", "task"), [("profiles.md", "lamp-3"), ("ml-engineer.md", "rewrite")])
def test_profile_examples_are_read(page, task, tmp_path):
    from toolkit.profiles import read_profiles
    from toolkit.tasks import load_task

    for number, code in enumerate(blocks(DOCS / page, "jsonl", "csv")):
        file = tmp_path / f"example-{number}"
        file.write_text(code, encoding="utf-8")
        for profile in read_profiles(file, load_task(task)):
            assert profile.history
            assert all(query.output for query in profile.queries)
    assert number in (0, 2)


def test_lamp_example_is_read(tmp_path):
    from toolkit.profiles import read_profile
    from toolkit.tasks import load_task

    questions, outputs = blocks(DOCS / "profiles.md", "json")
    (tmp_path / "questions.json").write_text(questions, encoding="utf-8")
    (tmp_path / "outputs.json").write_text(outputs, encoding="utf-8")
    profile = read_profile(tmp_path, load_task("lamp-3"))
    assert (profile.user_id, len(profile.history)) == ("310", 2)
    assert (profile.queries[0].input, profile.queries[0].output) == ("It leaks.", "2")


def test_plan_example_is_one():
    from runtimes.plan import plan_from_dict

    (plan,) = blocks(DOCS / "hardware-tester.md", "json")
    assert plan_from_dict(json.loads(plan)).repeats > 0


def test_manifest_example_is_read(tmp_path):
    from exporters.bundle import read_manifest

    (example,) = blocks(DOCS / "manifest.md", "json")
    (tmp_path / "manifest.json").write_text(example, encoding="utf-8")
    assert read_manifest(tmp_path).base_model.parameters > 0


# Tables that say what is in the code


def test_every_field_of_a_manifest_is_explained():
    from exporters.bundle import ALLOWED_SUFFIXES, Manifest

    page, hints = DOCS / "manifest.md", typing.get_type_hints(Manifest)
    assert first_column(section(page, "Top level")) == [field.name for field in dataclasses.fields(Manifest)]
    for name, kind in hints.items():
        parts = [each for each in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(each)]
        for part in parts:
            fields = [field.name for field in dataclasses.fields(part)]
            assert first_column(section(page, f"`{name}`")) == fields, name
    assert all(f"`{suffix}`" in text_of(page) for suffix in ALLOWED_SUFFIXES)


def test_every_task_and_metric_is_explained():
    from toolkit.metrics import METRICS
    from toolkit.tasks import Retrieval, Task, builtin_tasks

    page = text_of(DOCS / "tasks.md")
    assert re.findall(r"^\| `((?:lamp-\d|rewrite))` \|", page, re.MULTILINE) == builtin_tasks()
    fields = [*Task.__dataclass_fields__, *Retrieval.__dataclass_fields__, *METRICS]
    assert set(first_column(page)) >= set(fields)


def test_limits_of_a_valid_run_are_those_of_the_code():
    from benchmarks import protocol, validity
    from runtimes import settle

    text = section(DOCS / "measurements.md", "What makes a run invalid")
    for said in (
        f"After {protocol.SETTLE_SECONDS:g} s",
        f"more than {settle.OTHER_WORK_CORES:g} cores busy (or {100 * settle.OTHER_WORK_SHARE:g} % of",
        f"a load average above {validity.LOAD_AVERAGE_LIMIT:g}",
        f"took more than {validity.STEAL_CORES:g} cores",
        f"or {settle.TEMPERATURE_LIMIT:g} °C",
        f"fell by more than {100 * validity.FREQUENCY_DROP:g} %",
        f"Less than {100 * validity.MEMORY_AVAILABLE_SHARE:g} % of memory",
        f"more than {validity.MAJOR_FAULTS_LIMIT} pages",
        f"more than {validity.SWAPPED_LIMIT >> 20} MiB",
        f"wider than {100 * validity.SPREAD_LIMIT:g} %",
        f"earlier half by more than {100 * validity.SLOWDOWN_LIMIT:g} %",
        f"Fewer than {validity.LEAST_REPEATS} repeats",
    ):
        assert said in text


# The rooms of docs/architecture.md

MAY_IMPORT = {
    "exporters": set(),
    "runtimes": {"exporters.bundle"},
    "benchmarks": {"exporters.bundle", "runtimes"},
}
OTHER_ROOMS_WELCOME = (
    "pipeline.py",
    "bundling.py",
    "measuring.py",
    "ondevice.py",
    "fleet/bundles.py",
    "run_report.py",
    "sweep/",
    "commands/",
)


def imports_of(path):
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_the_architecture_allows(room):
    (said,) = re.findall(r"^The base modules are(.*?):", text_of(DOCS / "architecture.md"), re.M | re.S)
    base_modules = set(re.findall(r"`([\w.]+)`", said))
    for path in sorted((ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT / room).as_posix()
        for module in imports_of(path):
            other = module.partition(".")[0]
            if other not in ROOMS or other == room:
                continue
            if name.startswith("studies/"):
                fine = True  # programs at the very end, which nobody imports
            elif room == "toolkit":
                fine = name.startswith(OTHER_ROOMS_WELCOME)
            else:
                fine = module in base_modules | MAY_IMPORT[room] or other in MAY_IMPORT[room]
            assert fine, f"{room}/{name} imports {module}"


# Snippets that are run


@pytest.fixture
def tiny_base(tmp_path, monkeypatch):
    """Every model source is a tiny random model, and everything happens in a temporary folder."""
    from tiny import tiny_model_folder

    from toolkit import models, pipeline

    resolve, folder = models.resolve_model, str(tiny_model_folder(tmp_path))
    for module in (models, pipeline):
        monkeypatch.setattr(module, "resolve_model", lambda source, progress=None: resolve(folder))
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return resolve(folder)


def run_python_of(page, *, instead=("", "")):
    """Run a page's snippets one after another; `instead` replaces a text in them by another one."""
    space = {}
    for code in blocks(page, "python"):
        exec(compile(code.replace(*instead), page.name, "exec"), space)
    return space


def test_app_developers_snippets_run(tiny_base):
    from exporters.export import ExportJob, export_bundle
    from runtimes import open_engine
    from toolkit.finetune import open_chat
    from toolkit.models import load_model

    job = ExportJob(tiny_base, "tiny", 256, precision="fp32")
    export_bundle(load_model(tiny_base), open_chat(tiny_base), job, Path("bundle"), open_engine)
    assert len(run_python_of(DOCS / "app-developer.md")["golden"]["continuation"]) > 0


@pytest.mark.slow
def test_notebook_snippets_run(tiny_base):
    out = '"out": "runs/maud"'
    little = (
        '"augment": {"max_requests": 1, "select": {"embedding": "base"}}, "finetune": {"epochs": 1}, '
        '"bench": {"repeats": 1, "settle": 0}'
    )
    assert out in text_of(DOCS / "python.md")
    space = run_python_of(DOCS / "python.md", instead=(out, f"{out}, {little}"))
    assert space["outcome"].report.is_file()
    assert Path("result.json").is_file()
