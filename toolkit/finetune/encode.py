"""Examples as token ids: a prompt, and the answer that carries the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError
from toolkit.retrieval import retrieve_for

if TYPE_CHECKING:
    from toolkit.profiles import Example
    from toolkit.tasks import Task

_LONGEST_WORD = 40  # characters; scripts without spaces are cut between any two


@dataclass(frozen=True)
class EncodedExample:
    """One training example; `weight` scales its share of the loss."""

    id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Encoded:
    """What became of a list of examples: those that fit, the ids of those cut, the ids of those dropped."""

    examples: tuple[EncodedExample, ...]
    cut: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def encode_history(
    examples: "Sequence[Example]",
    task: "Task",
    chat: ChatFormat,
    *,
    max_length: int,
    weight: float = 1.0,
    history: "Sequence[Example]" = (),
    retrieved: int = 0,
) -> Encoded:
    """Encode history examples for training.

    A text that makes an example longer than `max_length` tokens loses words at its end (the instruction
    and the answer stay whole); an example whose answer alone leaves no room is dropped. Both are counted.
    With `retrieved`, so many of the others in `history` go before each, as far as they fit. Raises
    EdgePLMError for a task whose history cannot be asked like its queries.
    """
    if retrieved and not task.history_has_answers:
        raise EdgePLMError(
            f"the history of {task.name} holds no answers to its queries, so its examples cannot be trained "
            "with others before them",
            where="finetune.history_in_prompt",
            mend="Set it to 0",
        )
    kept: list[EncodedExample] = []
    cut: list[str] = []
    dropped: list[str] = []
    for example in examples:
        answer = chat.answer(example.output)
        room = max_length - len(answer)
        if retrieved:
            prompt = prompt_with_history(task, chat, example, history, retrieved, room)
        else:
            prompt = fit_prompt(chat, _renderer(task, example), example.input, room)
        if prompt is None:
            dropped.append(example.id)
            continue
        if prompt.cut:
            cut.append(example.id)
        kept.append(EncodedExample(example.id, tuple(prompt.ids), tuple(answer), weight))
    return Encoded(tuple(kept), tuple(cut), tuple(dropped))


@dataclass(frozen=True)
class FittedPrompt:
    """Token ids of a prompt; `cut` where words of the text had to go."""

    ids: list[int]
    cut: bool


def prompt_with_history(
    task: "Task",
    chat: ChatFormat,
    example: "Example",
    history: "Sequence[Example]",
    count: int,
    limit: int,
) -> FittedPrompt | None:
    """Ids of the query with the `count` most similar others of `history` (BM25) before it, in the task's
    wording: as many as fit `limit` tokens. None if not even the bare instruction fits."""
    others = [item for item in history if item != example]
    items = retrieve_for(task, example.input, others, count)
    for kept in range(len(items), 0, -1):
        ids = chat.prompt(task.render_with_history(example.input, items[:kept]))
        if len(ids) <= limit:
            return FittedPrompt(ids, cut=False)
    return fit_prompt(chat, task.render, example.input, limit)


def fit_prompt(chat: ChatFormat, render: Callable[[str], str], text: str, limit: int) -> FittedPrompt | None:
    """Ids of the prompt `render(text)` in at most `limit` tokens, by dropping words at the end of `text`.

    None if even the bare instruction does not fit.
    """
    ids = chat.prompt(render(text))
    if len(ids) <= limit:
        return FittedPrompt(ids, cut=False)
    fitting, high = 0, max(0, len(text) - 1)  # the longest beginning that fits, in characters
    while fitting < high:
        middle = (fitting + high + 1) // 2
        if len(chat.prompt(render(text[:middle]))) <= limit:
            fitting = middle
        else:
            high = middle - 1
    ids = chat.prompt(render(_whole_words(text, fitting)))
    return FittedPrompt(ids, cut=True) if len(ids) <= limit else None


def _whole_words(text: str, end: int) -> str:
    """At most the first `end` characters of `text`, without the part of a word at their end."""
    if end < len(text) and not text[end].isspace():
        spaces = [place for place in range(max(0, end - _LONGEST_WORD), end) if text[place].isspace()]
        end = spaces[-1] if spaces else end
    return text[:end].rstrip()


def _renderer(task: "Task", example: "Example") -> Callable[[str], str]:
    return lambda text: task.render_history(replace(example, input=text))
