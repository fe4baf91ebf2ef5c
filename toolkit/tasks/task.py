"""A task: the prompt around an input, how the answer is read, and how it is scored."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from toolkit.errors import EdgePLMError, TaskError
from toolkit.metrics import METRICS
from toolkit.tasks.answers import read_label, read_number, read_text, same_label, same_number

if TYPE_CHECKING:
    from toolkit.profiles import Example


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put `values` in the place of {their names}; every other brace, in either, stays as it is."""
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda match: values[match.group(1)], template)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How examples from the history are found, and worded before a query.

    `item` words one example with {input} and {output}; `joiner` stands between items; `wrap` sets {items}
    beside {prompt}. With `insert_after`, a regular expression, `wrap` holds {items} alone and goes into the
    prompt behind the expression's first match. `document` is what is searched in an example; the groups of
    the regular expression `query` are what it is searched for (without one: the whole input).
    """

    item: str = '"{output}" is the answer for "{input}"'
    joiner: str = ", and "
    wrap: str = "{items}. {prompt}"
    insert_after: str | None = None
    document: str = "{input}"
    query: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a task file says; see the files in `toolkit/tasks/builtin` for the format.

    `prompt` holds {input} once. `history_prompt` differs from it only where a history item is not itself a
    question with its answer; its outputs are then free text, whatever the parser and labels.
    """

    name: str
    version: int = 1
    description: str = ""
    prompt: str
    input_field: str = "input"
    output_field: str = "output"
    history_prompt: str
    parser: str = "text"
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("rouge_l", "rouge_1")
    retrieval: Retrieval = Retrieval()
    max_new_tokens: int = 128

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Task":
        """A task from a mapping with a task file's fields; all its problems come in one TaskError."""
        from toolkit.tasks.checking import checked_task

        return checked_task(data, where=f"task {data.get('name', 'without a name')}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON or YAML; `Task.from_dict` gives the same task back."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @property
    def history_has_answers(self) -> bool:
        """Whether a history item's output is an answer in the task's own form (not so in LaMP-1 and 7)."""
        return self.history_prompt == self.prompt

    @property
    def history_needs_input(self) -> bool:
        """Whether the prompt for a history item holds the item's input."""
        return "{input}" in self.history_prompt

    @property
    def primary_metric(self) -> str:
        """The metric by which two systems are compared: the first one listed."""
        return self.metrics[0]

    def higher_is_better(self, metric: str) -> bool:
        """Whether a larger value of `metric` is the better one."""
        return METRICS[metric].higher_is_better

    def render(self, text: str) -> str:
        """The prompt for a query."""
        return fill(self.prompt, {"input": text})

    def render_history(self, example: "Example") -> str:
        """The prompt whose right answer is the history example's output."""
        return fill(self.history_prompt, {"input": example.input})

    def render_with_history(self, text: str, items: Sequence["Example"]) -> str:
        """The prompt for a query with retrieved `items` in it; without items, the plain prompt.

        Raises TaskError if the prompt has no match for `retrieval.insert_after`.
        """
        prompt, retrieval = self.render(text), self.retrieval
        if not items:
            return prompt
        worded = (fill(retrieval.item, {"input": item.input, "output": item.output}) for item in items)
        joined = retrieval.joiner.join(worded)
        if retrieval.insert_after is None:
            return fill(retrieval.wrap, {"items": joined, "prompt": prompt})
        match = re.search(retrieval.insert_after, prompt)
        if match is None:
            problem = f"retrieval.insert_after: {retrieval.insert_after!r} matches nothing in {prompt[:60]!r}"
            raise TaskError([problem], where=f"task {self.name}", mend="Ask without retrieved history")
        return prompt[: match.end()] + fill(retrieval.wrap, {"items": joined}) + prompt[match.end() :]

    def search_text(self, text: str) -> str:
        """What of a query's raw input is looked for in the history."""
        match = re.search(self.retrieval.query, text, re.DOTALL) if self.retrieval.query else None
        return " ".join(group for group in match.groups() if group) if match else text

    def search_document(self, example: "Example") -> str:
        """What of a history example is searched."""
        return fill(self.retrieval.document, {"input": example.input, "output": example.output})

    def raw_input(self, query_text: str) -> str:
        """A query's text without the instruction, if it holds it; LaMP's own queries do."""
        before, after = self.prompt.split("{input}")
        long_enough = len(query_text) >= len(before) + len(after)
        if long_enough and query_text.startswith(before) and query_text.endswith(after):
            return query_text[len(before) : len(query_text) - len(after)]
        return query_text

    def parse(self, answer: str) -> str | None:
        """The answer in the form of a gold answer; None if it cannot be read."""
        if self.parser == "label":
            return read_label(answer, self.labels)
        if self.parser == "number":
            return read_number(answer, self.labels)
        return read_text(answer)

    def gold(self, text: str) -> str | None:
        """A gold answer as the metrics compare it; None if it is not one of the task's labels."""
        if self.parser == "label":
            return same_label(text, self.labels)
        if self.parser == "number":
            return same_number(text, self.labels)
        return read_text(text)

    def score(self, answers: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
        """Every metric of the task over raw model answers, the primary one first.

        Raises EdgePLMError if there is nothing to score or a gold is missing or not one of the labels.
        """
        parsed, wanted = self._comparable(answers, golds)
        return {name: METRICS[name].total(parsed, wanted, self.labels) for name in self.metrics}

    def per_example(self, answers: Sequence[str], golds: Sequence[str]) -> list[float]:
        """The primary metric of each query alone, for paired comparisons.

        Absolute error (squared for rmse), ROUGE, or 1 and 0 for right and wrong. Raises as `score`.
        """
        parsed, wanted = self._comparable(answers, golds)
        return METRICS[self.primary_metric].values(parsed, wanted, self.labels)

    def _comparable(self, answers: Sequence[str], golds: Sequence[str]) -> tuple[list[str | None], list[str]]:
        wanted = [self.gold(gold) for gold in golds]
        unusable = [gold for gold, form in zip(golds, wanted, strict=True) if form is None]
        if unusable:
            raise EdgePLMError(
                f"{len(unusable)} of {len(golds)} gold answers cannot be scored (first: {unusable[0]!r})",
                where=f"task {self.name}",
                mend="Score only queries whose gold answer is given and one of the task's labels",
            )
        return [self.parse(answer) for answer in answers], [gold for gold in wanted if gold is not None]
