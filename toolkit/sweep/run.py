"""The stages of a sweep, each kept in its folder: the dataset, the base model, an adapter for each ratio."""

import json
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.augment import Augmentation, read_augmentation, write_augmentation, write_synthetic
from toolkit.augment.labels import label_targets, next_labels
from toolkit.augment.selection import Learner
from toolkit.errors import EdgePLMError
from toolkit.files import write_atomic
from toolkit.models import BaseModel, cache_folder, resolve_model
from toolkit.profiles import Example, Profile, read_profile
from toolkit.progress import SILENT, Progress
from toolkit.recipe import Recipe
from toolkit.runfolder import RunFolder, identity
from toolkit.sweep.measure import Part, evaluations, measure
from toolkit.sweep.result import Arm, Sweep, choose_ratio
from toolkit.tasks import Task, load_task

if TYPE_CHECKING:
    from toolkit.finetune.trial import Trials

_MOST = 10_000  # synthetic examples
_RESULT = "arm.json"


@dataclass(frozen=True)
class _Sweep:
    """What every part of a sweep needs; `base` is the `plain` one with the task adapter in it, if any."""

    recipe: Recipe
    folder: RunFolder
    task: Task
    profile: Profile
    plain: BaseModel
    base: BaseModel
    progress: Progress


def sweep(
    recipe: Recipe,
    ratios: Sequence[float],
    out: Path,
    *,
    with_queries: bool = False,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> Sweep:
    """Measure each of `ratios`, and 0 in any case, in the folder `out`.

    The recipe's own `augment.ratio` and the cap `augment.examples` play no part; its budget does. What is
    done is kept: the same call goes on where it stopped, with other ratios it trains only what is new, and no
    answer of a teacher is asked for twice; `fresh` trains all of them anew. `with_queries` also answers the
    held-out queries, which never choose. Adapters are trained in float, whatever `quantization_aware` says.
    Raises EdgePLMError for anything that the user can mend.
    """
    from exporters.task_adapter import with_task_adapter

    wanted = checked_ratios(ratios)
    task = load_task(recipe.task_source)
    profile = read_profile(recipe.profile_path, task, recipe.user)
    with RunFolder(out).open() as folder:
        plain = resolve_model(recipe.model_source, progress)
        base = with_task_adapter(plain, recipe.task_adapter_path, cache_folder(), progress)
        run = _Sweep(recipe, folder, task, profile, plain, base, progress)
        trials = _trials(run)
        made = _dataset(run, max(wanted), fresh)
        arms = _arms(run, trials, _sizes(wanted, made, trials), made.kept, with_queries, fresh)
        base_arm, *trained = arms
        found = Sweep(
            user=profile.user_id,
            task=task.name,
            metric=task.primary_metric if trained[0].metrics else None,
            real=len(trials.training),
            validation=len(trials.held_out),
            queries=len(profile.queries),
            base=base_arm,
            arms=tuple(trained),
            chosen=choose_ratio(trained),
            unreached=tuple(ratio for ratio in wanted if _count(ratio, trials) > len(made.kept)),
        )
        write_atomic(out / "sweep.json", json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n")
    return found


def checked_ratios(ratios: Sequence[float]) -> list[float]:
    """The ratios in order, each once, and 0 with them; EdgePLMError for what is none."""
    for ratio in ratios:
        if not 0 <= ratio <= 100:  # also refuses what is not a number
            raise EdgePLMError(
                f"{ratio:g} is no ratio of synthetic to real examples",
                where="--sweep",
                mend="Give numbers from 0 to 100, such as 0,0.5,1,2,4",
            )
    wanted = sorted({0.0, *(float(ratio) for ratio in ratios)})
    if wanted == [0.0]:
        raise EdgePLMError(
            "there is nothing to compare with real examples alone",
            where="--sweep",
            mend="Give a ratio above 0, such as 0,0.5,1,2,4",
        )
    return wanted


def for_largest(recipe: Recipe, ratio: float) -> Recipe:
    """The recipe by which the examples of a sweep are written, `ratio` being the largest one."""
    return replace(recipe, augment=replace(recipe.augment, enabled=True, ratio=ratio, examples=_MOST))


def read_dataset(out: Path) -> Augmentation:
    """The examples that a sweep in the folder `out` wrote, in the order in which adapters were given them."""
    return read_augmentation(out / "dataset")


def in_fixed_order(examples: Sequence[Example], task: Task, seed: int) -> list[Example]:
    """Shuffled by the seed, and so that the first of them, however many, have the labels of all.

    Whichever were written first, about the easy cases or about failures, are no longer first.
    """
    shuffled = list(examples)
    random.Random(f"{seed}:sweep").shuffle(shuffled)  # noqa: S311 - an order, nothing secret
    targets = label_targets(shuffled, task, len(shuffled)) if shuffled else None
    if targets is None:
        return shuffled
    waiting: dict[str, deque[Example]] = {}
    for example in shuffled:
        waiting.setdefault(task.gold(example.output) or example.output, deque()).append(example)
    labels = next_labels(Counter(targets), len(shuffled))
    return [waiting[label].popleft() for label in labels if label is not None]


def _trials(run: _Sweep) -> "Trials":
    from toolkit.finetune.trial import Trials

    trials = Trials(run.base, run.profile, run.task, run.recipe.finetune, run.recipe.seed)
    who = f"user {run.profile.user_id}"
    if not trials.held_out:
        raise EdgePLMError(
            f"of {len(run.profile.history)} examples none is held out, so nothing can be compared",
            where=who,
            mend="A sweep needs five examples at least, and finetune.validation above 0",
        )
    if not trials.real.examples or not trials.validation.examples:
        raise EdgePLMError(
            f"no example fits {run.recipe.finetune.max_length} tokens",
            where=who,
            mend="Raise finetune.max_length",
        )
    return trials


def _dataset(run: _Sweep, largest: float, fresh: bool) -> Augmentation:
    """One set of synthetic examples for the largest ratio, in a fixed order."""
    recipe = for_largest(run.recipe, largest)
    settings = recipe.augment
    path = run.folder.path

    def work(folder: Path) -> None:
        made = write_synthetic(
            run.profile,
            run.task,
            recipe,
            run.plain,
            learner=Learner(run.base, run.profile, run.task, recipe.finetune, recipe.seed),
            answers_path=path.with_name(f"{path.name}.answers.jsonl"),
            audit_path=path.with_name(f"{path.name}.audit.jsonl"),
            progress=run.progress,
        )
        if made.nothing_kept:
            raise EdgePLMError(
                made.nothing_kept, where="augment", mend="See what was dropped with `edgeplm augment --json`"
            )
        kept = in_fixed_order(made.kept, run.task, recipe.seed)
        write_augmentation(replace(made, kept=tuple(kept)), folder)

    inputs = {
        **_identity(run),
        "plain": run.plain.sha256,
        "augment": settings.as_dict(),
        "teacher": recipe.teacher_sources,
        "finetune": recipe.finetune.as_dict(),
    }
    return read_augmentation(run.folder.stage("dataset", inputs, work, fresh=fresh).folder)


def _count(ratio: float, trials: "Trials") -> int:
    return max(1, round(ratio * len(trials.training))) if ratio else 0


def _sizes(ratios: Sequence[float], made: Augmentation, trials: "Trials") -> dict[int, float]:
    """Ratios by their numbers of synthetic examples; those that too few were kept for are the one reached."""
    sizes: dict[int, float] = {}
    for ratio in ratios:
        if _count(ratio, trials) <= len(made.kept):
            sizes.setdefault(_count(ratio, trials), ratio)
        else:
            sizes.setdefault(len(made.kept), round(len(made.kept) / len(trials.training), 2))
    return sizes


def _arms(
    run: _Sweep,
    trials: "Trials",
    sizes: Mapping[int, float],
    kept: Sequence[Example],
    with_queries: bool,
    fresh: bool,
) -> list[Arm]:
    """The base model, then an adapter for each number of synthetic examples."""
    stages: dict[str, tuple[int | None, float, dict[str, Any]]] = {}
    for count, ratio in [(None, 0.0), *sizes.items()]:
        inputs = {
            **_identity(run),
            "queries": with_queries,
            "retrieved": run.recipe.finetune.history_in_prompt,
        }
        if count is not None:
            inputs["finetune"] = run.recipe.finetune.as_dict()
            inputs["synthetic"] = [[example.input, example.output] for example in kept[:count]]
        stages["base" if count is None else f"adapter-{count}"] = (count, ratio, inputs)
    evaluated = evaluations(trials, run.task, len(run.profile.queries) if with_queries else 0)
    effort = {
        name: evaluated + (trials.steps(count) if count is not None else 0)
        for name, (count, _, inputs) in stages.items()
        if fresh or not run.folder.has(name, inputs)
    }
    arms = []
    label = f"Comparing {len(sizes)} adapters"
    with run.progress.step(label, total=sum(effort.values()), unit="steps") as advance:
        for name, (count, ratio, inputs) in stages.items():
            part = Part(advance, effort.get(name, 0))

            def work(folder: Path, count: int | None = count, part: Part = part) -> None:
                arm = measure(
                    trials,
                    run.recipe,
                    run.profile,
                    run.task,
                    None if count is None else kept[:count],
                    with_queries=with_queries,
                    progress=part,
                )
                write_atomic(folder / _RESULT, json.dumps(asdict(arm), ensure_ascii=False) + "\n")

            stage = run.folder.stage(name, inputs, work, fresh=fresh)
            part.finish()
            arm = Arm(**json.loads((stage.folder / _RESULT).read_text(encoding="utf-8")))
            arms.append(replace(arm, ratio=ratio))
    return arms


def _identity(run: _Sweep) -> dict[str, Any]:
    return identity(run.base.sha256, run.task, run.profile, run.recipe.seed)
