"""The model behind the studies' teacher server: batches of chat requests, JSON in the form of a schema."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import EdgePLMError
from toolkit.models import BaseModel, load_model, load_tokenizer


class BadRequestError(Exception):
    """A request that cannot be answered; `param` names the field, as OpenAI's errors do."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Job:
    """One request, read and checked."""

    ids: list[int]
    seed: int
    temperature: float
    top_p: float
    max_tokens: int
    schema: str | None  # JSON
    answer: "Future[tuple[list[int], bool]]" = field(default_factory=Future, compare=False)

    @property
    def together(self) -> tuple[Any, ...]:
        """What the jobs of one batch have in common."""
        return self.temperature, self.top_p, self.max_tokens, self.schema


class TeacherModel:
    """A model that answers batches of jobs.

    `top_p` is what a request without one gets. Raises EdgePLMError if llguidance is not installed.
    """

    def __init__(self, base: BaseModel, *, dtype: str = "float32", top_p: float = 1.0) -> None:
        import torch

        from toolkit.chat import ChatFormat

        try:
            import llguidance.hf
        except ImportError as error:
            raise EdgePLMError(
                "llguidance is not installed", where="benchmarks.studies.teacher",
                mend="Install it: pip install 'edgeplm[study]'",
            ) from error  # fmt: skip
        self.name = base.source
        self.top_p = top_p
        self._model: Any = load_model(base).to(getattr(torch, dtype))
        self._chat = ChatFormat(load_tokenizer(base), self._model.generation_config.eos_token_id)
        config = self._model.config.get_text_config()
        self.context = int(getattr(config, "max_position_embeddings", 2048))
        self._vocabulary = llguidance.hf.from_tokenizer(
            self._chat.tokenizer, n_vocab=self._model.get_output_embeddings().weight.shape[0]
        )

    def encode(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation up to where the answer begins; bare texts where there is no template."""
        tokenizer = self._chat.tokenizer
        if self._chat.has_template:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        else:
            text = (tokenizer.bos_token or "") + "".join(f"{each['content']}\n\n" for each in messages)
        return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids."""
        return self._chat.decode(ids)

    def generate(self, jobs: Sequence[Job]) -> list[tuple[list[int], bool]]:
        """(ids without the end, whether it ended by itself) of jobs that are alike (`Job.together`)."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        from toolkit.augment.sampling import Sampler

        width = max(len(job.ids) for job in jobs)
        pad = self._chat.stop[0]
        ids = torch.tensor([[pad] * (width - len(job.ids)) + job.ids for job in jobs])
        mask = torch.tensor([[0] * (width - len(job.ids)) + [1] * len(job.ids) for job in jobs])
        first = jobs[0]
        rules: list[Any] = []
        if first.schema is not None:
            rules.append(_Form(self._vocabulary, first.schema, len(jobs), self._chat.stop))
        rules.append(Sampler([job.seed for job in jobs], first.temperature, first.top_p))
        settings = GenerationConfig(
            max_new_tokens=first.max_tokens, do_sample=False, eos_token_id=self._chat.stop, pad_token_id=pad
        )
        with torch.inference_mode():
            rows = self._model.generate(
                input_ids=ids, attention_mask=mask, generation_config=settings,
                logits_processor=LogitsProcessorList(rules),
            )  # fmt: skip
        found = []
        for row in rows[:, width:].tolist():
            end = next((place for place, token in enumerate(row) if token in self._chat.stop), None)
            found.append((row[:end], end is not None))
        return found


class _Form:
    """A logits processor that lets only continuations of JSON in the form of a schema through."""

    def __init__(self, vocabulary: Any, schema: str, rows: int, stop: Sequence[int]) -> None:
        import llguidance
        import llguidance.torch

        # Without blanks between tokens: small models otherwise write nothing but line breaks.
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            schema, defaults={"whitespace_flexible": False}
        )
        if problem := llguidance.LLMatcher.validate_grammar(grammar, vocabulary):
            raise BadRequestError(f"no usable JSON schema: {problem}", "response_format")
        self._rows = [llguidance.LLMatcher(vocabulary, grammar) for _ in range(rows)]
        self._stop = list(stop)
        self._bits = llguidance.torch.allocate_token_bitmask(1, vocabulary.vocab_size)
        self._started = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores with what would break the form at minus infinity. Shapes: [rows, vocabulary]."""
        from llguidance.torch import apply_token_bitmask_inplace, fill_next_token_bitmask

        for place, row in enumerate(self._rows):
            if self._started and not row.is_stopped():
                row.consume_token(int(input_ids[place, -1]))
            if row.is_stopped():
                scores[place] = float("-inf")
                scores[place, self._stop] = 0.0
                continue
            fill_next_token_bitmask(row, self._bits, 0)
            apply_token_bitmask_inplace(scores[place : place + 1], self._bits)
        self._started = True
        return scores
