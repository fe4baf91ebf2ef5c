"""Reading examples out of teachers' answers: JSON among other text, and continued patterns."""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.tasks import Task


@dataclass(frozen=True)
class Candidate:
    """A synthetic example as the teacher wrote it; `problem` says why it could not be read."""

    input: str
    output: str
    problem: str | None = None


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

    @property
    def mark(self) -> str:
        """A regular expression for the mark of a part, at the beginning of a line."""
        return f"^({'|'.join(re.escape(name) for name in (self.output, self.input) if name)}):"

    def marks(self, text: str) -> bool:
        """Whether a text has a mark at all."""
        return re.search(self.mark, text, re.MULTILINE) is not None

    def marked(self, text: str, output: str) -> str:
        """One example with its marks, the output first."""
        return f"{self.output}: {output}" + (f"\n{self.input}: {text}" if self.input else "")

    def begin(self, label: str | None, opening: str) -> str:
        """Where a new example begins: at its output, or at its input if the output is given."""
        if label is None:
            return f"{self.output}:"
        return self.marked("", label).rstrip() + (f" {opening}" if opening else "")


def read_json_examples(text: str, fields: Fields) -> list[Candidate]:
    """Every example in an answer: JSON lines, an array, or objects among other text and code fences."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    decoder, found, place = json.JSONDecoder(), [], 0
    while (place := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            line = text[place:].split("\n", 1)[0]
            # What wraps examples may be cut off and they be whole: they are looked for one by one.
            if _looks_like_example(line) and "{" not in line[1:]:
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
    parts = re.split(fields.mark, text, flags=re.MULTILINE)
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


def whole_sentences(text: str) -> str:
    """A text without the last sentence, which was cut off; empty where it is the only one."""
    ends = [match.end() for match in re.finditer(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]", text)]
    return text[: ends[-1]] if ends else ""


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
