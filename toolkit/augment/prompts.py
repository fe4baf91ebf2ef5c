"""Few-shot prompts from a person's history, and reading the answers back.

Two ways, because teachers differ. "instruction": a capable model is asked for several new examples as JSON
lines. "pattern": a small model, which follows patterns better than instructions, sees a conversation of
marked examples and goes on with a new one. The output comes first in a pattern, then the input it belongs
to: so a label can be given beforehand, and a text in the person's own manner is written before its neutral
source, which is the easier direction (back-translation, Sennrich et al., 2016).
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.augment.teachers import Message, Style

if TYPE_CHECKING:
    from toolkit.profiles import Example
    from toolkit.tasks import Task

# A prompt shows no more text than this, so that long inputs cannot make it endless; at least two shots stay.
_MOST_SHOT_CHARACTERS: dict[Style, int] = {"instruction": 24_000, "pattern": 6_000}
_FEWEST_SHOTS = 2
_OPENING_WORDS = 3
_CUT_OFF = "cut off at the token limit"


@dataclass(frozen=True)
class Candidate:
    """A synthetic example as the teacher wrote it; `problem` says why it could not be read."""

    input: str
    output: str
    problem: str | None = None


@dataclass(frozen=True)
class Request:
    """One conversation for the teacher.

    `wanted`: for every example asked for its label, or None where the task has none. `begun`: what the
    messages already say of the answer.
    """

    style: Style
    messages: tuple[Message, ...]
    seed: int
    wanted: tuple[str | None, ...]
    begun: str = ""


class PromptWriter:
    """Writes requests from a history, and reads their answers.

    Shots are dealt like cards, from a deck shuffled by the seed: every example is shown before one is shown
    again, the oldest as often as the latest.
    """

    def __init__(self, task: "Task", history: "Sequence[Example]", *, shots: int, seed: int) -> None:
        self._task = task
        self._history = tuple(history)
        self._shots = shots
        self._random = random.Random(f"{seed}:shots")  # noqa: S311 - reproducible, not secret
        self._decks: dict[str | None, list[Example]] = {}
        self._fields = Fields.of(task)
        self._one_line = not any("\n" in example.input + example.output for example in history)

    def write(self, style: Style, wanted: Sequence[str | None], seeds: Iterator[int]) -> list[Request]:
        """Requests for examples with the `wanted` labels (None: any): one together, or a pattern for each."""
        if style == "pattern":
            return [self._pattern(label, next(seeds)) for label in wanted]
        shots = self._deal(None, self._shots, style)
        message = {"role": "user", "content": instruction(self._task, shots, wanted)}
        return [Request(style, (message,), next(seeds), tuple(wanted))]

    def read(self, request: Request, text: str, *, truncated: bool) -> list[Candidate]:
        """The examples in an answer; what cannot be read is a candidate with a problem."""
        if request.style == "instruction":
            return read_json_examples(text, self._fields)
        found = read_pattern(
            request.begun + text, self._fields, label=request.wanted[0], one_line=self._one_line
        )
        if truncated and found.problem is None and not self._ended(found, request.begun + text):
            return [Candidate(found.input, found.output, _CUT_OFF)]
        return [found]

    def _ended(self, found: Candidate, text: str) -> bool:
        """Whether the example was complete before the limit, the model having gone on to something else."""
        last = found.input if self._task.history_needs_input else found.output
        return not text.rstrip().endswith(last)

    def _pattern(self, label: str | None, seed: int) -> Request:
        shots, opening = self._labelled_shots(label)
        begun = self._fields.begin(label, opening)
        turns: list[Message] = []
        for shot in shots:
            turns.append({"role": "user", "content": self._fields.ask})
            turns.append({"role": "assistant", "content": self._fields.marked(shot.input, shot.output)})
        turns.append({"role": "user", "content": self._fields.ask})
        turns.append({"role": "assistant", "content": begun})
        return Request("pattern", tuple(turns), seed, (label,), begun)

    def _labelled_shots(self, label: str | None) -> tuple[list["Example"], str]:
        """Shots that all have the label, where there are enough, and the first words of one more.

        Small models take over what the shots have in common, so those of other labels only fill up.
        """
        if label is None:
            return self._deal(None, self._shots, "pattern"), ""
        same = [example for example in self._history if self._task.gold(example.output) == label]
        spare = len(same) > self._shots
        alike = self._deal(label, min(self._shots + spare, len(same)), "pattern")
        if spare and len(alike) > min(_FEWEST_SHOTS, self._shots):
            return alike[:-1], " ".join(alike[-1].input.split()[:_OPENING_WORDS])
        fill = max(0, min(_FEWEST_SHOTS, self._shots) - len(alike))
        others = [each for each in self._deal(None, fill + len(alike), "pattern") if each not in alike]
        return others[:fill] + alike, ""

    def _deal(self, label: str | None, count: int, style: Style) -> list["Example"]:
        deck = self._decks.setdefault(label, [])
        hand: list[Example] = []
        characters = 0
        for _ in range(min(count, len(self._history))):
            if not deck:
                deck.extend(self._shuffled(label, hand))
            if not deck:
                break
            characters += len(deck[-1].input) + len(deck[-1].output)
            if characters > _MOST_SHOT_CHARACTERS[style] and len(hand) >= _FEWEST_SHOTS:
                break
            hand.append(deck.pop())
        return hand

    def _shuffled(self, label: str | None, hand: Sequence["Example"]) -> list["Example"]:
        """All examples of a label, those in `hand` aside: no prompt shows one twice."""
        deck = [
            example
            for example in self._history
            if example not in hand and (label is None or self._task.gold(example.output) == label)
        ]
        self._random.shuffle(deck)
        return deck


@dataclass(frozen=True)
class Fields:
    """The words that mark an example's parts in a pattern; `input` is None where histories have none."""

    input: str | None
    output: str

    @classmethod
    def of(cls, task: "Task") -> "Fields":
        """The task's own field names; a familiar word ("Review", "Title") is itself a hint to the model."""
        output = _capitalised(task.output_field) or "Output"
        if not task.history_needs_input:
            return cls(None, output)
        name = _capitalised(task.input_field)
        return cls("Input", "Output") if not name or name == output else cls(name, output)

    @property
    def ask(self) -> str:
        """The user's turn before every example of a pattern."""
        with_input = f" and its {self.input.lower()}" if self.input else ""
        article = "an" if self.output[0].lower() in "aeiou" else "a"
        return f"Write {article} {self.output.lower()}{with_input}."

    def marked(self, text: str, output: str) -> str:
        """One example with its marks, the output first."""
        return f"{self.output}: {output}" + (f"\n{self.input}: {text}" if self.input else "")

    def begin(self, label: str | None, opening: str) -> str:
        """Where a new example begins: at its output, or at its input if the output is given."""
        if label is None:
            return f"{self.output}:"
        return self.marked("", label).rstrip() + (f" {opening}" if opening else "")


def instruction(task: "Task", shots: "Sequence[Example]", wanted: Sequence[str | None]) -> str:
    """The request to a model that follows instructions."""
    keys = ("input", "output") if task.history_needs_input else ("output",)
    shown = "\n".join(
        json.dumps({key: getattr(shot, key) for key in keys}, ensure_ascii=False) for shot in shots
    )
    about = f" The task: {task.description}" if task.description else ""
    lines = [
        f"Here are examples by one person, one JSON object a line.{about}",
        "",
        shown,
        "",
        f"Write {len(wanted)} new example{'s' if len(wanted) != 1 else ''} that could be by the same person: "
        "the same subjects, length, wording, punctuation and quirks, and the same way from input to output. "
        "Every example must be about something new; do not repeat or reword the ones above.",
    ]
    if any(wanted):
        order = ", ".join(json.dumps(label, ensure_ascii=False) for label in wanted)
        lines.append(
            f"Their outputs, in this order: {order}. Write each input so that this person would give it that."
        )
    form = ", ".join(f'"{key}": "..."' for key in keys)
    lines.append(
        f"Answer with JSON lines only, {{{form}}}, one line an example, and nothing before or after them."
    )
    return "\n".join(lines)


def read_json_examples(text: str, fields: Fields) -> list[Candidate]:
    """Every example in an answer: JSON lines, an array, or objects among other text and code fences."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    decoder, found, place = json.JSONDecoder(), [], 0
    while (place := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            line = text[place:].split("\n", 1)[0]
            if _looks_like_example(line):
                found.append(Candidate("", line, "not valid JSON"))
                place += len(line)
            place += 1
            continue
        found += [_from_json(item, fields) for item in _examples_within(value)]
    return found or [
        Candidate("", text.strip(), "no example in the answer" if text.strip() else "empty answer")
    ]


def read_pattern(text: str, fields: Fields, *, label: str | None, one_line: bool) -> Candidate:
    """The first example of a continued pattern; what the model went on with after it is left out.

    `one_line`: the person's texts have no line breaks, so that a line break ends one.
    """
    text = text.split(f"\n{fields.ask}", 1)[0]
    marks = "|".join(re.escape(mark) for mark in (fields.output, fields.input) if mark)
    parts = re.split(rf"^({marks}):", text, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for mark, part in zip(parts[1::2], parts[2::2], strict=True):
        if mark in found:
            break  # the next example
        part = part.strip()
        found[mark] = part.split("\n", 1)[0].rstrip() if one_line else part
    output = label if label is not None else found.get(fields.output, "")
    if fields.input and fields.input not in found:
        return Candidate("", output, f'no "{fields.input}:" in the answer')
    return Candidate(found.get(fields.input or "", ""), output)


def _from_json(item: dict[str, Any], fields: Fields) -> Candidate:
    values = {}
    for key in ("input", "output") if fields.input else ("output",):
        value = item.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return Candidate("", json.dumps(item, ensure_ascii=False), f'"{key}" is missing or not a text')
        values[key] = str(value).strip()
    return Candidate(values.get("input", ""), values["output"])


def _examples_within(value: Any) -> list[dict[str, Any]]:
    """The objects with an "output", or failing that an "input", in a decoded value, however it is wrapped."""
    if isinstance(value, dict):
        if "output" in value or "input" in value:
            return [value]
        value = list(value.values())
    if isinstance(value, list):
        return [found for each in value for found in _examples_within(each)]
    return []


def _looks_like_example(line: str) -> bool:
    return '"output"' in line or '"input"' in line


def _capitalised(field: str) -> str:
    words = re.sub(r"[\W_]+", " ", field).strip()
    return words[:1].upper() + words[1:]
