"""What an artifact answers to neutral prompts: kept in the manifest, for other devices to repeat
(`runtimes.golden`)."""

from collections.abc import Sequence
from typing import Any, Protocol

from exporters.bundle import GoldenCheck
from toolkit.chat import ChatFormat

GOLDEN_PROMPTS = (
    "List three things that one finds in a kitchen.",
    "What is the capital of France?",
    "Write one sentence about the sea.",
)
GOLDEN_TOP = 5
GOLDEN_TOKENS = 12


class EngineLike(Protocol):
    """What an export needs of a runtime: the next token's logits and a greedy continuation."""

    name: str
    version: str

    def prefill(self, ids: Sequence[int]) -> Any:
        """Next-token logits [vocab]."""
        ...

    def generate(self, ids: Sequence[int], max_new_tokens: int, stop: Sequence[int]) -> Any:
        """Greedy continuation."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


def golden_checks(engine: EngineLike, chat: ChatFormat) -> list[GoldenCheck]:
    """What this artifact answers to the neutral prompts, on this machine."""
    checks = []
    for text in GOLDEN_PROMPTS:
        prompt = chat.prompt(text)
        logits = engine.prefill(prompt)
        top = logits.argsort()[::-1][:GOLDEN_TOP]
        checks.append(
            GoldenCheck(
                prompt,
                [int(token) for token in top],
                [round(float(logits[token]), 4) for token in top],
                [int(token) for token in engine.generate(prompt, GOLDEN_TOKENS, chat.stop)],
            )
        )
    return checks
