"""The person's held-out queries, answered by every arm: base, base with history, adapters, artifact."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError
from toolkit.files import write_atomic
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Example, Profile
from toolkit.progress import SILENT, Progress
from toolkit.tasks import Task

BASE, HISTORY, ARTIFACT = "base", "base + history", "artifact"


@dataclass(frozen=True)
class Answers:
    """One arm's greedy answers in the order of the queries, with the task's metrics over all of them and the
    primary metric of each."""

    arm: str
    answers: list[str]
    metrics: dict[str, float]
    per_query: list[float]


def scored(arm: str, answers: Sequence[str], task: Task, queries: Sequence[Example]) -> Answers:
    """`answers` with their metrics; queries without a gold answer are left out of the metrics."""
    known = [index for index, query in enumerate(queries) if query.output]
    if not known:
        return Answers(arm, list(answers), {}, [])
    given = [answers[index] for index in known]
    golds = [queries[index].output for index in known]
    return Answers(arm, list(answers), task.score(given, golds), task.per_example(given, golds))


def answer_limit(task: Task, chat: ChatFormat, profile: Profile) -> int:
    """Longest answer that is asked for, in tokens: the task's limit, or half as long again as the longest
    answer in the person's history. A base model that does not know when to stop costs minutes otherwise."""
    longest = max(len(chat.answer(example.output)) for example in profile.history)
    return min(task.max_new_tokens, longest + longest // 2)


def prompt_limit(task: Task, context_length: int) -> int:
    """Longest prompt, in tokens, that leaves room for the task's answer in a context of that length."""
    return max(16, context_length - task.max_new_tokens - 1)


def query_prompts(
    task: Task,
    chat: ChatFormat,
    queries: Sequence[Example],
    limit: int,
    *,
    history: Sequence[Example] = (),
    retrieved: int = 0,
) -> list[list[int]]:
    """Token ids of the queries' prompts; one that is longer than `limit` loses words at its end.

    With `retrieved`, so many of `history` that are most similar (BM25) go before each, as far as they fit.
    """
    return [_fitted(chat, task, query, limit, history, retrieved) for query in queries]


def history_prompts(
    task: Task, chat: ChatFormat, profile: Profile, retrieved: int, limit: int
) -> list[list[int]]:
    """Prompts with the most similar history before the query (BM25), as many items as fit `limit` tokens."""
    return query_prompts(task, chat, profile.queries, limit, history=profile.history, retrieved=retrieved)


def answer_float(
    base: BaseModel,
    chat: ChatFormat,
    task: Task,
    profile: Profile,
    adapters: dict[str, Path],
    *,
    retrieved: int,
    limit: int,
    history_in_prompt: int = 0,
    progress: Progress = SILENT,
) -> list[Answers]:
    """Greedy answers of the float model: base, base with `retrieved` history, and with each adapter, which
    is asked with as much `history_in_prompt` as it was trained with."""
    from peft import PeftModel

    from toolkit.finetune.evaluate import greedy_answers

    plain = query_prompts(task, chat, profile.queries, limit)
    runs: list[tuple[str, Path | None, list[list[int]]]] = [(BASE, None, plain)]
    if retrieved:
        runs.append((HISTORY, None, history_prompts(task, chat, profile, retrieved, limit)))
    asked = plain
    if history_in_prompt:
        asked = history_prompts(task, chat, profile, history_in_prompt, limit)
    runs += [(f"adapter ({name})", folder, asked) for name, folder in adapters.items()]
    results = []
    for arm, adapter, prompts in runs:
        model = load_model(base)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter))
        answers = greedy_answers(
            model,
            chat,
            prompts,
            max_new_tokens=answer_limit(task, chat, profile),
            progress=progress,
            label=f"Held-out queries: {arm}",
        )
        results.append(scored(arm, answers, task, profile.queries))
    return results


def write_answers(path: Path, arms: Sequence[Answers]) -> None:
    """Write arms as JSON."""
    write_atomic(path, json.dumps([asdict(arm) for arm in arms], indent=1, ensure_ascii=False) + "\n")


def read_answers(path: Path) -> list[Answers]:
    """Read what `write_answers` wrote."""
    return [Answers(**arm) for arm in json.loads(path.read_text(encoding="utf-8"))]


def _fitted(
    chat: ChatFormat, task: Task, query: Example, limit: int, history: Sequence[Example], retrieved: int
) -> list[int]:
    from toolkit.finetune.encode import fit_prompt, prompt_with_history

    if retrieved:
        fitted = prompt_with_history(task, chat, query, history, retrieved, limit)
    else:
        fitted = fit_prompt(chat, task.render, query.input, limit)
    if fitted is None:
        raise EdgePLMError(
            f"the instruction alone is longer than {limit} tokens",
            where=f"query {query.id}",
            mend="Raise export.context_length",
        )
    return fitted.ids
