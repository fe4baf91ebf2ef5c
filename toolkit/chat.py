"""Turning prompts and answers into token ids, the same way in training, on the host and on the device."""

from collections.abc import Sequence
from typing import Any

from toolkit.errors import ModelError


class ChatFormat:
    """A tokenizer with its chat template; a model without a template gets the bare prompt and a newline.

    `stop` are the ids that end an answer, `end_of_turn` is the one that training puts after it. Raises
    ModelError for a template that cannot be used, or if nothing says what ends an answer.
    """

    def __init__(self, tokenizer: Any, generation_eos: int | Sequence[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        eos = generation_eos if generation_eos is not None else tokenizer.eos_token_id
        ends = [eos] if isinstance(eos, int) else list(eos or [])
        self.end_of_turn = self._end_of_turn(ends)
        self.stop = sorted({*ends, self.end_of_turn})

    def prompt(self, text: str) -> list[int]:
        """Ids of a user's message, up to where the answer begins."""
        return self._encode(self.render(text))

    def answer(self, text: str) -> list[int]:
        """Ids of an answer with the token that ends it."""
        return [*self._encode(text), self.end_of_turn]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def render(self, text: str) -> str:
        """A user's message as the text that `prompt` encodes."""
        if not self.has_template:
            return f"{self.tokenizer.bos_token or ''}{text}\n"
        return self._fill_template([{"role": "user", "content": text}], add_generation_prompt=True)

    def _fill_template(self, messages: list[dict[str, str]], **how: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **how))
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(
                f"its chat template cannot be used ({error})",
                where=self.tokenizer.name_or_path or "tokenizer",
                mend="Mend chat_template.jinja (or chat_template in tokenizer_config.json)",
            ) from error

    def _encode(self, text: str) -> list[int]:
        whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be encoded
        return list(self.tokenizer(whole, add_special_tokens=False)["input_ids"])

    def _end_of_turn(self, ends: list[int]) -> int:
        """The special token that the template puts after an assistant's message, else the first eos."""
        if self.has_template:
            turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ANSWER"}]
            rendered = self._fill_template(turn)
            after = self._encode(rendered.rpartition("ANSWER")[2].lstrip())
            special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
            if after and after[0] in special:
                return after[0]
        if not ends:
            raise ModelError(
                "its tokenizer names no end-of-sequence token",
                where=self.tokenizer.name_or_path or "tokenizer",
                mend="Set eos_token in tokenizer_config.json or generation_config.json",
            )
        return ends[0]
