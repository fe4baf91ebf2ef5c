"""One person in the personalisation study: synthetic examples, adapters, and every arm's answers."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.studies.people import Person
from toolkit.augment import Augmentation, read_augmentation, write_augmentation, write_synthetic
from toolkit.augment.filters import held_out_texts, normalised
from toolkit.augment.plan import open_placeholders
from toolkit.augment.reading import Candidate, Fields, read_json_examples, read_pattern
from toolkit.augment.result import REPORT_FILE
from toolkit.augment.run import shown_to_teachers
from toolkit.augment.selection import Learner, candidates_for
from toolkit.commands.common import parse_changes
from toolkit.finetune import REAL, SYNTHETIC, Finetuning, adapter_folder, finetune, open_chat
from toolkit.fleet.plan import key_of
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Example, Profile
from toolkit.quality import answer_limit, prompt_limit, query_prompts, scored
from toolkit.recipe import Recipe, recipe_from_dict, replace_fields
from toolkit.recipe_augment import PATTERN
from toolkit.tasks import Task

BASE, RETRIEVAL, UNSELECTED = "base", "retrieval", "real+unselected"
REAL_RETRIEVAL, SYNTHETIC_RETRIEVAL = f"{REAL}, {RETRIEVAL}", f"{SYNTHETIC}, {RETRIEVAL}"
SHIPPED, MEDIAN = "as shipped", "own median"
ARMS = (MEDIAN, BASE, RETRIEVAL, REAL, SYNTHETIC, UNSELECTED, REAL_RETRIEVAL, SYNTHETIC_RETRIEVAL, SHIPPED)
_ANSWERS = "teacher-answers.jsonl"
_REAL_ADAPTER = "real-adapter"  # trained to select by, and the real-only arm


@dataclass(frozen=True)
class Setting:
    """Who takes part and what is done, all of it fixed before anything is asked.

    Of each person the latest `history` examples and the first `queries` held-out queries take part, their
    inputs cut to `longest` characters. `requests` bounds what a person's teacher is asked. `changes` are
    other fields of the recipe, as FIELD=VALUE.
    """

    people: str | None
    task: str
    model: str
    teacher: str
    users: int = 30
    least: int = 4
    history: int = 16
    queries: int = 4
    longest: int = 300
    examples: int = 8
    requests: int = 24
    shots: int = 3
    answer_tokens: int = 96
    epochs: int = 2
    retrieved: int = 2
    unselected: bool = False
    teacher_style: str = PATTERN
    teacher_dtype: str = "float32"
    teacher_top_p: float = 0.7
    seed: int = 0
    changes: tuple[str, ...] = ()

    def recipe(self, address: str = "http://127.0.0.1/v1") -> Recipe:
        """The recipe of everybody's run: the defaults, but for the limits of this study.

        Once the teacher, which is at `address`, has been asked, that is not looked at any more.
        """
        limits = recipe_from_dict(
            {
                "task": self.task,
                "profile": self.people or ".",
                "model": self.model,
                "seed": self.seed,
                "augment": {
                    "teacher": address,
                    "model": self.teacher,
                    "style": self.teacher_style,
                    "examples": self.examples,
                    "max_requests": self.requests,
                    "shots": self.shots,
                    "answer_tokens": self.answer_tokens,
                    "concurrency": 8,
                    "timeout": 1200.0,
                },
                "finetune": {"epochs": self.epochs, "retrieved": self.retrieved},
            },
            "the study's setting",
        )
        return replace_fields(limits, parse_changes(self.changes))

    def limited(self, person: Person) -> Person:
        """The person with as much history, as many queries and as long texts as take part."""

        def cut(example: Example) -> Example:
            return replace(example, input=example.input[: self.longest].rstrip())

        known = [query for query in person.profile.queries if query.output]
        profile = replace(
            person.profile,
            history=tuple(map(cut, person.profile.history[-self.history :])),
            queries=tuple(map(cut, known[: self.queries])),
        )
        return replace(person, profile=profile)


def is_written(person: Person, out: Path) -> bool:
    """Whether the teacher has been asked for a person."""
    return (_synthetic(person, out) / REPORT_FILE).exists()


def ask_teacher(person: Person, recipe: Recipe, base: BaseModel, out: Path) -> None:
    """Have the teacher's answers for a person on disk, where `synthetic_examples` finds them.

    Nothing is chosen by models, which must not be trained in several threads; this may be called in many.
    """
    settings, folder = recipe.augment, _synthetic(person, out)
    shutil.rmtree(folder, ignore_errors=True)  # of a study that was killed
    wanted = settings.wanted(len(shown_to_teachers(person.profile, recipe).history))
    every = replace(
        settings,
        examples=candidates_for(wanted, settings.select),
        ratio=100.0,
        select=replace(settings.select, enabled=False),
    )
    _written(person, replace(recipe, augment=every), base, folder)


def synthetic_examples(person: Person, recipe: Recipe, base: BaseModel, out: Path) -> Augmentation:
    """What the teacher wrote for a person, chosen as the product does; from `out` if it is there already."""
    folder = _synthetic(person, out)
    if is_written(person, out):
        return read_augmentation(folder)
    made = _written(person, recipe, base, folder)
    write_augmentation(made, folder)
    return made


def _written(person: Person, recipe: Recipe, base: BaseModel, folder: Path) -> Augmentation:
    folder.mkdir(parents=True, exist_ok=True)
    learner = Learner(
        base, person.profile, person.task, recipe.finetune, recipe.seed, folder=folder / _REAL_ADAPTER
    )
    return write_synthetic(
        person.profile, person.task, recipe, base, learner=learner,
        answers_path=folder / _ANSWERS, audit_path=folder / "audit.jsonl",
    )  # fmt: skip


def unselected_examples(profile: Profile, task: Task, recipe: Recipe, out: Path) -> list[Example]:
    """As many as are wanted, the first that the same answers hold, whatever the filters say of them.

    Only what cannot be trained on (no text, no label of the task) or must not be (a held-out text, word for
    word) is left out.
    """
    shown = shown_to_teachers(profile, recipe)
    wanted = recipe.augment.wanted(len(shown.history))
    hidden = open_placeholders(shown, task, recipe.augment)
    restore: Callable[[str], str] = hidden.restore if hidden else str
    held_out = set(held_out_texts(shown.queries, task))
    labelled = bool(task.history_has_answers and task.labels)

    def read_answer(text: str) -> list[Candidate]:
        if recipe.augment.all_teachers[0].asked_for == PATTERN:
            return [read_pattern(text, Fields.of(task), label=None, one_line=True)]
        return read_json_examples(text, Fields.of(task))

    found: list[Example] = []
    with open(out / "synthetic" / key_of(profile.user_id) / _ANSWERS, encoding="utf-8") as lines:
        for line in lines:
            for each in read_answer(json.loads(line)["text"]):
                text, output = restore(each.input), restore(each.output)
                read = task.parse(output) if labelled else output
                leaks = normalised(text) in held_out or (not labelled and normalised(output) in held_out)
                if each.problem is None and text and read and not leaks and len(found) < wanted:
                    found.append(Example(f"unselected-{len(found)}", text, read))
    return found


def study_person(
    base: BaseModel, person: Person, made: Augmentation, setting: Setting, recipe: Recipe, out: Path
) -> dict[str, Any]:
    """Train the person's adapters and ask every arm; a JSON object.

    Where no synthetic example was kept, the real-only adapter is what a run would have, and stands in.
    """
    task, profile = person.task, person.profile
    learned = _synthetic(person, out) / _REAL_ADAPTER
    started = time.process_time()
    with tempfile.TemporaryDirectory(dir=out) as name:
        scratch = Path(name)
        report = finetune(
            base, profile, task, recipe.finetune, scratch / "selected", synthetic=made.kept, seed=recipe.seed,
            done=learned if learned.exists() else None,
        )  # fmt: skip
        adapters = {each.name: adapter_folder(scratch / "selected", each.name) for each in report.adapters}
        adapters.setdefault(SYNTHETIC, adapters[REAL])
        shutil.rmtree(learned, ignore_errors=True)  # it is among them now
        trained = time.process_time()
        answers = _answers(base, person, adapters, recipe, with_base=True)
    if task.parser == "number":
        middle = sorted(each.output for each in profile.history)[len(profile.history) // 2]
        answers[MEDIAN] = [middle] * len(profile.queries)
    answers[SHIPPED] = answers[BASE if report.withheld else report.chosen]
    return {
        "user": profile.user_id,
        "task": task.name,
        "history": len(profile.history),
        "queries": len(profile.queries),
        "synthetic": _account(made),
        "validation": _validation(report),
        "seconds": {"training": trained - started, "answers": time.process_time() - trained},
        "arms": {arm: asdict(scored(arm, given, task, profile.queries)) for arm, given in answers.items()},
    }


def with_unselected(
    base: BaseModel, person: Person, row: dict[str, Any], recipe: Recipe, out: Path
) -> dict[str, Any]:
    """A person's `row` with the arm that was trained on unselected synthetic examples.

    Where the answers held none, it is the real-only arm.
    """
    task, profile = person.task, person.profile
    raw = unselected_examples(profile, task, recipe, out)
    given = row["arms"][REAL]["answers"]
    if raw:
        alone = replace(recipe.finetune, choose=SYNTHETIC)
        with tempfile.TemporaryDirectory(dir=out) as name:
            finetune(base, profile, task, alone, Path(name) / "raw", synthetic=raw, seed=recipe.seed)
            adapter = adapter_folder(Path(name) / "raw", SYNTHETIC)
            given = _answers(base, person, {UNSELECTED: adapter}, recipe)[UNSELECTED]
    arm = asdict(scored(UNSELECTED, given, task, profile.queries))
    account = row["synthetic"] | {"unselected": len(raw)}
    return row | {"synthetic": account, "arms": row["arms"] | {UNSELECTED: arm}}


def _answers(
    base: BaseModel, person: Person, adapters: dict[str, Path], recipe: Recipe, *, with_base: bool = False
) -> dict[str, list[str]]:
    """Greedy answers of the adapters and, if asked for, of the base, each with and without retrieval."""
    from peft import PeftModel

    from toolkit.finetune.evaluate import greedy_answers

    task, profile, chat = person.task, person.profile, open_chat(base)
    limit = prompt_limit(task, recipe.export.context_length)
    plain = query_prompts(task, chat, profile.queries, limit)
    informed = query_prompts(
        task, chat, profile.queries, limit, history=profile.history, retrieved=recipe.finetune.retrieved
    )
    longest = answer_limit(task, chat, profile)

    def ask(model: Any, prompts: Sequence[Sequence[int]]) -> list[str]:
        return greedy_answers(model, chat, prompts, max_new_tokens=longest)

    model: Any = load_model(base)
    found = {BASE: ask(model, plain), RETRIEVAL: ask(model, informed)} if with_base else {}
    for number, (name, folder) in enumerate(adapters.items()):
        slot = f"arm{number}"
        if number == 0:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=slot)
        else:
            model.load_adapter(str(folder), adapter_name=slot)
        model.set_adapter(slot)
        found[name] = ask(model, plain)
        if name != UNSELECTED:
            found[f"{name}, {RETRIEVAL}"] = ask(model, informed)
    return found


def _synthetic(person: Person, out: Path) -> Path:
    return out / "synthetic" / key_of(person.profile.user_id)


def _account(made: Augmentation) -> dict[str, Any]:
    return {
        "kept": len(made.kept),
        "answered": made.answered,
        "requests": made.requests,
        "dropped": dict(made.dropped),
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "hidden": dict(made.hidden),
    }


def _validation(report: Finetuning) -> dict[str, Any]:
    """Losses on the held-out slice of the history, in nats, and what a run would ship by them."""
    return {
        "base": report.base_validation_loss,
        **{each.name: min(each.validation_losses, default=None) for each in report.adapters},
        "chosen": report.chosen,
        "withheld": bool(report.withheld),
    }
