"""Augmentation: ask teachers for new examples in a person's manner until enough survive the filters."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.augment.answers import AnswerRecord, request_key
from toolkit.augment.budget import Budget, BudgetSpentError
from toolkit.augment.failures import FailureFinder, Failures
from toolkit.augment.filters import refuse_leaks
from toolkit.augment.plan import Asked, Planner, open_placeholders
from toolkit.augment.prompts import Request
from toolkit.augment.result import Augmentation
from toolkit.augment.selection import Chooser, Learner, candidates_for, open_selection
from toolkit.augment.tally import Account, Tally
from toolkit.augment.teachers import Completion, Message, Teacher, open_teachers
from toolkit.errors import TeacherError
from toolkit.progress import SILENT, Advance, Progress
from toolkit.recipe_augment import Style

if TYPE_CHECKING:
    from toolkit.augment.endpoint import OpenAITeacher
    from toolkit.models import BaseModel
    from toolkit.profiles import Example, Profile
    from toolkit.recipe import AugmentRecipe, Recipe
    from toolkit.tasks import Task

FindFailures = Callable[[tuple["Example", ...]], Failures]  # of an adapter trained beside these examples

_FAILURES = 3  # of one teacher in a row, after which it is not asked any more


def augment(
    profile: "Profile",
    task: "Task",
    teachers: Teacher | Sequence[Teacher],
    recipe: "AugmentRecipe",
    *,
    seed: int,
    answers_path: Path | None = None,
    audit_path: Path | None = None,
    budget: Budget | None = None,
    choose: Chooser | None = None,
    find_failures: FindFailures | None = None,
    wanted: int | None = None,
    progress: Progress = SILENT,
) -> Augmentation:
    """Ask until as many are kept as the recipe wants for this history, or its requests are spent.

    Teachers are asked in turn. They see examples of the history only, never a query, and those that are
    reached over the network see placeholders in the place of personal data. Every answer is in the file
    `answers_path` before it is used; a later run with the same arguments reads it from there and does not ask
    again, and `budget` counts it. `audit_path` is named in the result. To a "pattern" teacher one request is
    `recipe.examples_per_request` conversations of one example each. The rounds after the first
    (`recipe.rounds`) are about what `find_failures` finds, given the examples kept so far; without it there
    is one round. At the end `choose` takes its choice of what was kept. `wanted`: how many to have before
    that, where it is not what the recipe wants for this history.

    A request that fails is counted; a teacher that fails several times in a row, or for a cause that concerns
    all requests, is asked no more. When none is left the run ends, and `stopped` says why; TeacherError is
    raised if there was no answer at all.
    """
    staff = list(teachers) if isinstance(teachers, Sequence) else [teachers]
    hidden = open_placeholders(profile, task, recipe) if any(each.network for each in staff) else None
    planner = Planner(
        profile, task, recipe, seed, [(each.style, each.network) for each in staff], hidden, wanted
    )
    tally = Tally([Account() for _ in staff])
    record = AnswerRecord(answers_path)
    sizes = planner.rounds(recipe.rounds if find_failures else 1)
    for number, size in enumerate(sizes):
        failures = find_failures(tuple(tally.kept)) if find_failures and number else None
        planner.begin(len(tally.kept), size, failures)
        label = "Writing synthetic examples" + (f", round {number + 1} of {len(sizes)}" if number else "")
        with progress.step(label, total=size, unit="examples") as advance:
            _write(staff, planner, size, recipe, record, budget, tally, advance)
        tally.end_round(failures)
        if tally.stopped is not None:
            break
    refuse_leaks(tally.kept, profile.queries, task)
    exhausted = planner.exhausted(len(tally.kept)) if tally.stopped is None else None
    if choose is not None:
        tally.select(choose(tuple(tally.kept)))
    return tally.result(
        staff,
        wanted=planner.wanted,
        exhausted=exhausted,
        hidden=dict(hidden.counts) if hidden else {},
        audit=str(audit_path) if audit_path and audit_path.exists() else None,
    )


def shown_to_teachers(profile: "Profile", recipe: "Recipe") -> "Profile":
    """The profile as augmentation sees it: the slice of the history that is held out to choose between
    adapters (`finetune.validation`) is held out here too, like the queries, or it would favour adapters that
    were trained on what a teacher made of it."""
    from toolkit.finetune import split_history

    training, held_out = split_history(profile.history, recipe.finetune.validation, recipe.seed)
    return replace(profile, history=tuple(training), queries=(*profile.queries, *held_out))


def write_synthetic(
    profile: "Profile",
    task: "Task",
    recipe: "Recipe",
    base: "BaseModel",
    *,
    answers_path: Path,
    audit_path: Path,
    learner: Learner | None = None,
    progress: Progress = SILENT,
) -> Augmentation:
    """Open the teachers of a whole recipe, within its budget, `augment`, and choose by models.

    `learner` says who is to learn from the examples, if it is not `base`, the model that the teacher `local`
    means.
    """
    from toolkit.augment.privacy import AuditFile

    settings, shown = recipe.augment, shown_to_teachers(profile, recipe)
    wanted, candidates = settings.wanted(len(shown.history)), _candidates(shown, settings)
    learner = learner or Learner(base, profile, task, recipe.finetune, recipe.seed)
    choose = open_selection(shown, task, settings.select, wanted, learner, progress)
    budget = Budget(settings.most_requests(candidates), settings.max_tokens, settings.max_cost)
    teachers = open_teachers(
        settings,
        base=base,
        resolve=recipe.resolve_source,
        history=shown.history,
        budget=budget,
        audit=AuditFile(audit_path),
        progress=progress,
    )
    finder = FailureFinder(learner, path=answers_path.with_suffix(".rounds.jsonl"), progress=progress)
    made = augment(
        shown,
        task,
        teachers,
        settings,
        seed=recipe.seed,
        answers_path=answers_path,
        audit_path=audit_path,
        budget=budget,
        wanted=candidates,
        find_failures=finder if settings.rounds > 1 else None,
        choose=choose,
        progress=progress,
    )
    return replace(made, wanted=wanted)


def first_requests(
    profile: "Profile", task: "Task", recipe: "AugmentRecipe", *, style: Style, seed: int
) -> list[tuple[Message, ...]]:
    """The conversations that a run with a local teacher would begin with."""
    planner = Planner(profile, task, recipe, seed, [(style, False)], None, _candidates(profile, recipe))
    return [asked.request.messages for asked in _first(planner, recipe)]


def request_bodies(
    profile: "Profile",
    task: "Task",
    teachers: "Sequence[OpenAITeacher]",
    recipe: "AugmentRecipe",
    *,
    seed: int,
) -> list[bytes]:
    """The bodies of the first round's requests to network teachers, byte for byte as they would be sent.

    `teachers` are opened for a preview (`open_teachers`), which sends nothing. Later requests show other
    history examples in the same form; which ones depends on the answers.
    """
    hidden = open_placeholders(profile, task, recipe)
    styles = [(each.style, True) for each in teachers]
    planner = Planner(profile, task, recipe, seed, styles, hidden, _candidates(profile, recipe))
    return [
        teachers[asked.teacher].preview(
            asked.request.messages, seed=asked.request.seed, schema=asked.request.schema
        )
        for asked in _first(planner, recipe)
    ]


def _candidates(profile: "Profile", recipe: "AugmentRecipe") -> int:
    return candidates_for(recipe.wanted(len(profile.history)), recipe.select)


def _first(planner: Planner, recipe: "AugmentRecipe") -> list[Asked]:
    """The requests that a run begins with."""
    sizes = planner.rounds(recipe.rounds)
    if sizes:
        planner.begin(0, sizes[0])
    return planner.next_requests(0)


def _write(
    staff: Sequence[Teacher],
    planner: Planner,
    size: int,
    recipe: "AugmentRecipe",
    record: AnswerRecord,
    budget: Budget | None,
    tally: Tally,
    advance: Advance,
) -> None:
    """One round: ask until `size` more examples are kept, or its requests are spent, or nobody is left."""
    goal = len(tally.kept) + size
    while tally.stopped is None:
        willing = [place for place, account in enumerate(tally.accounts) if account.gave_up is None]
        if not (asked := planner.next_requests(len(tally.kept), willing)):
            return
        for each, answer in _answers(staff, asked, recipe, record, budget, tally):
            before = len(tally.kept)
            for candidate in planner.read(each, answer):
                tally.add(each.teacher, candidate, planner.sieve, goal)
            advance(len(tally.kept) - before)
        _stop_if_nobody_is_left(tally)


def _answers(
    staff: Sequence[Teacher],
    asked: Sequence[Asked],
    recipe: "AugmentRecipe",
    record: AnswerRecord,
    budget: Budget | None,
    tally: Tally,
) -> list[tuple[Asked, Completion]]:
    """Requests with their answers, in the order asked; those that failed are left out and counted."""
    keys = [_key(staff[each.teacher], each.request, recipe) for each in asked]
    known = [record.get(key) for key in keys]
    for each, found in zip(asked, known, strict=True):
        if found and budget and staff[each.teacher].network:
            budget.count(found.prompt_tokens, found.completion_tokens, staff[each.teacher].price)
    for place, teacher in enumerate(staff):
        mine = [index for index, each in enumerate(asked) if each.teacher == place and known[index] is None]
        if mine:
            _ask(
                teacher,
                place,
                [asked[index].request for index in mine],
                [keys[i] for i in mine],
                record,
                tally,
            )
    answered = []
    for each, key, before in zip(asked, keys, known, strict=True):
        if found := record.get(key):
            answered.append((each, found))
            tally.count(each.teacher, each.request, found, reused=before is not None)
        else:
            tally.asked += len(each.request.wanted)
    return answered


def _ask(
    teacher: Teacher,
    place: int,
    requests: Sequence[Request],
    keys: Sequence[str],
    record: AnswerRecord,
    tally: Tally,
) -> None:
    """Ask one teacher, each answer going into the record as it arrives."""
    account = tally.accounts[place]
    try:
        conversations, seeds = [each.messages for each in requests], [each.seed for each in requests]
        for index, answer in teacher.complete_many(conversations, seeds, requests[0].schema):
            if isinstance(answer, TeacherError):
                tally.fail(place, answer)
            else:
                account.in_a_row = 0
                record.add(keys[index], answer)
        if account.in_a_row >= _FAILURES:
            account.gave_up = f"{account.in_a_row} requests in a row failed, the last one so: {account.last}"
    except BudgetSpentError as error:
        tally.stopped = str(error)
    except TeacherError as error:
        account.gave_up = str(error)


def _stop_if_nobody_is_left(tally: Tally) -> None:
    reasons = [account.gave_up for account in tally.accounts]
    if tally.stopped is None and all(reasons):
        tally.stopped = "; ".join(dict.fromkeys(filter(None, reasons)))
    if tally.stopped is not None and not tally.answered_requests:
        raise TeacherError(tally.stopped)


def _key(teacher: Teacher, request: Request, recipe: "AugmentRecipe") -> str:
    return request_key(teacher.name, request.messages, request.seed, recipe.temperature, request.schema)
