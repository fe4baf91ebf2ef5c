"""What every engine can do with a bundle: prefill, decode, score, generate."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from toolkit.errors import BundleError

Logits = npt.NDArray[np.float32]


class Engine(ABC):
    """One loaded model that answers token by token. Greedy decoding only: measurements must repeat.

    Raises ValueError where a prompt does not fit `context_length`.
    """

    name: str
    version: str
    context_length: int
    vocab_size: int

    @abstractmethod
    def prefill(self, ids: Sequence[int]) -> Logits:
        """Forget what came before, read `ids`, and return the next token's logits [vocab]."""

    @abstractmethod
    def decode(self, token: int) -> Logits:
        """Append one token and return the next token's logits [vocab]."""

    def score(self, ids: Sequence[int], first: int = 0) -> Logits:
        """Logits of the positions from `first` on [len(ids) - first, vocab]; each predicts the next token.

        Here by reading the first ones and decoding the rest, since shipped graphs give a prompt's last
        logits only.
        """
        self.check_length(ids)
        rows = [self.prefill(ids[: first + 1]), *(self.decode(token) for token in ids[first + 1 :])]
        return np.stack(rows)

    @property
    def adapters(self) -> list[str]:
        """Names that `use_adapter` takes."""
        return []

    def use_adapter(self, name: str | None) -> None:
        """Answer as the person whose attached adapter is `name`, or with None as the base, from the next
        prompt on. Raises BundleError if there is no such adapter."""
        if name is not None:
            raise BundleError(
                f"has no attached adapter {name!r}",
                where=self.name,
                mend=f"It has: {', '.join(self.adapters) or 'none'}",
            )

    def close(self) -> None:
        """Give the model's memory back."""
        return

    def generate(self, ids: Sequence[int], max_new_tokens: int, stop: Collection[int]) -> Iterator[int]:
        """Greedy continuation of `ids`, token by token, without the stop token that ended it."""
        logits = self.prefill(ids)
        room = self.context_length - len(ids)
        for step in range(min(max_new_tokens, room)):
            token = int(logits.argmax())
            if token in stop:
                return
            yield token
            if step + 1 < min(max_new_tokens, room):
                logits = self.decode(token)

    def check_length(self, ids: Sequence[int]) -> None:
        """ValueError if `ids` is empty or leaves no room for one more token."""
        if not 0 < len(ids) < self.context_length:
            raise ValueError(f"a prompt of {len(ids)} tokens does not fit a context of {self.context_length}")


def first_line(error: Exception) -> str:
    """What a runtime's own error says, short enough for one line of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
