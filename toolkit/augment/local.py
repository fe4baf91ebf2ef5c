"""A teacher on this machine: a transformers model that goes on with a few-shot pattern."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolkit.augment.budget import Price
from toolkit.augment.sampling import NoCopying, Sampler
from toolkit.augment.teachers import Completion, Message, Schema
from toolkit.chat import ChatFormat
from toolkit.errors import TeacherError
from toolkit.recipe_augment import Style

if TYPE_CHECKING:
    from toolkit.profiles import Example

# Nucleus. At 0.95 a model of 135 M parameters loses the thread and the person's habits; at 0.7 it keeps both.
_TOP_P = 0.7
_MARKER_TOKENS = 24
_LEAST_ROOM = 64
_UNKNOWN_CONTEXT = 2048


class LocalTeacher:
    """Samples from `model`, `batch_size` conversations at a time.

    Every conversation has its own random generator, seeded by its own seed: what it draws does not depend
    on its neighbours in the batch. Temperature 0 is greedy decoding. Where a conversation and
    `max_new_tokens` do not fit the model's context, its oldest turns are left out, with a note. A schema is
    not used: a small model follows the pattern of its shots.
    """

    network = False
    price = Price()

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        style: Style = "pattern",
        temperature: float = 0.9,
        top_p: float = _TOP_P,
        max_new_tokens: int = 256,
        batch_size: int = 8,
    ) -> None:
        self.name = name
        self.style: Style = style
        self._model = model
        self._chat = ChatFormat(tokenizer, getattr(model.generation_config, "eos_token_id", None))
        self._temperature = temperature
        self._top_p = top_p
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size

    def __repr__(self) -> str:
        return f"LocalTeacher({self.name})"

    def complete(self, messages: Sequence[Message], *, seed: int, schema: Schema | None = None) -> Completion:
        """Answer, or continue, one conversation."""
        return next(self.complete_many([messages], [seed]))[1]

    def complete_many(
        self,
        conversations: Sequence[Sequence[Message]],
        seeds: Sequence[int],
        schema: Schema | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Answer batch by batch; conversations of like length share a batch."""
        prompts = [self._fitted(messages) for messages in conversations]
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index][0]))
        for start in range(0, len(by_length), self._batch_size):
            batch = by_length[start : start + self._batch_size]
            answers = self._sample([prompts[index][0] for index in batch], [seeds[index] for index in batch])
            for index, new in zip(batch, answers, strict=True):
                ids, notes = prompts[index]
                yield index, self._completion(ids, new, notes)

    def _fitted(self, messages: Sequence[Message]) -> tuple[list[int], tuple[str, ...]]:
        """The prompt's ids, from as many of the newest turns as the context has room for."""
        room = self._context_length() - self._max_new_tokens
        turns, left_out = list(messages), 0
        while len(ids := self._encode(turns)) > room:
            # A user's turn and its answer go together, or the template would find its roles out of order.
            if len(turns) < 4 or turns[1]["role"] != "assistant":
                raise TeacherError(
                    f"a request of {len(ids)} tokens does not fit its context of {self._context_length()}, "
                    f"with {self._max_new_tokens} for the answer",
                    where=self.name,
                    mend="Lower augment.shots, or choose a teacher with a longer context",
                )
            turns, left_out = turns[2:], left_out + 1
        note = "some shots were left out of requests, because the teacher's context has no room for them"
        return ids, (note,) if left_out else ()

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        asked = list(messages[:-1] if begun else messages)
        tokenizer = self._chat.tokenizer
        if self._chat.has_template:
            # Templates of reasoning models read enable_thinking; the others ignore it.
            text = tokenizer.apply_chat_template(
                asked, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        else:
            text = (tokenizer.bos_token or "") + "".join(f"{message['content']}\n\n" for message in asked)
        return list(tokenizer(str(text) + begun, add_special_tokens=False)["input_ids"])

    def _context_length(self) -> int:
        config = self._model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or _UNKNOWN_CONTEXT)

    def _sample(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        width = max(map(len, prompts))
        padding = self._chat.stop[0]
        ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.device
        settings = GenerationConfig(
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # it would punish the very pattern that the prompt shows
            eos_token_id=self._chat.stop,
            pad_token_id=padding,
        )
        rules = [NoCopying(width), Sampler(seeds, self._temperature, self._top_p)]
        try:
            with _evaluating(self._model), torch.no_grad():
                answers = self._model.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=settings,
                    logits_processor=LogitsProcessorList(rules),
                )
        except RuntimeError as error:  # what torch raises, on any device, where memory runs out
            if "memory" not in str(error):
                raise
            raise TeacherError(
                f"there is not enough memory for {len(prompts)} answers at a time",
                where=self.name,
                mend="Lower augment.shots, or choose a smaller teacher",
            ) from error
        return [row[width:].tolist() for row in answers]

    def _completion(self, prompt: list[int], new: list[int], notes: tuple[str, ...]) -> Completion:
        end = next((place for place, token in enumerate(new) if token in self._chat.stop), None)
        answer = new[:end]
        return Completion(
            text=self._text_after(prompt, answer),
            prompt_tokens=len(prompt),
            completion_tokens=len(answer) + (end is not None),
            truncated=end is None,
            notes=notes,
        )

    def _text_after(self, prompt: list[int], answer: list[int]) -> str:
        """The answer as it reads behind the prompt: some tokenizers drop a text's leading space."""

        def decode(ids: list[int]) -> str:
            return str(
                self._chat.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            )

        before, whole = decode(prompt), decode(prompt + answer)
        return whole[len(before) :] if whole.startswith(before) else decode(answer)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside the block; every module's own flag is put back after it."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def room_for_answer(history: "Sequence[Example]", tokenizer: Any) -> int:
    """Tokens that the longest example of a history takes, with a quarter to spare and room for markers."""
    texts = [f"{example.output}\n{example.input}" for example in history]
    longest = max((len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts), default=0)
    return max(_LEAST_ROOM, longest * 5 // 4 + _MARKER_TOKENS)
