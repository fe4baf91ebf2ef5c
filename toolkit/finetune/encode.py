"""Examples as token ids: a prompt, and the answer that carries the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from toolkit.chat import ChatFormat

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
    examples: "Sequence[Example]", task: "Task", chat: ChatFormat, *, max_length: int, weight: float = 1.0
) -> Encoded:
    """Encode history examples for training.

    A text that makes an example longer than `max_length` tokens loses words at its end (the instruction
    and the answer stay whole); an example whose answer alone leaves no room is dropped. Both are counted.
    """
    kept: list[EncodedExample] = []
    cut: list[str] = []
    dropped: list[str] = []
    for example in examples:
        answer = chat.answer(example.output)
        prompt = fit_prompt(chat, _renderer(task, example), example.input, max_length - len(answer))
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
