"""A budget for teachers that cost: what a request may cost is reserved before it is sent."""

from dataclasses import dataclass
from threading import Lock

from toolkit.errors import TeacherError


@dataclass(frozen=True)
class Price:
    """Per million tokens, in whatever currency the recipe counts in."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class BudgetSpentError(TeacherError):
    """The next request could exceed the budget, so it was not sent."""


class Budget:
    """Requests, tokens and money that network teachers may use, together; None is no limit.

    `reserve` counts the most that a request can use, `settle` replaces that by what it did use. So the sum
    never exceeds a limit, however many requests are under way. Safe to use from several threads.
    """

    def __init__(
        self, requests: int | None = None, tokens: int | None = None, cost: float | None = None
    ) -> None:
        self._limits = (requests, tokens, cost)
        self._lock = Lock()
        self.requests = 0
        self.tokens = 0
        self.cost = 0.0

    def reserve(self, prompt_tokens: int, completion_tokens: int, price: Price) -> None:
        """Count the most that one request can use; BudgetSpentError if that could exceed a limit."""
        tokens, cost = prompt_tokens + completion_tokens, price.of(prompt_tokens, completion_tokens)
        with self._lock:
            after = (self.requests + 1, self.tokens + tokens, self.cost + cost)
            fields = ("max_requests", "max_tokens", "max_cost")
            for field, used, limit in zip(fields, after, self._limits, strict=True):
                if limit is not None and used > limit:
                    raise BudgetSpentError(
                        f"the next request could exceed the budget ({self._spent()}; limit {limit:g})",
                        where=f"augment.{field}",
                        mend="Raise it and run again; no answer is asked for twice",
                    )
            self.requests, self.tokens, self.cost = after

    def settle(self, reserved: tuple[int, int], used: tuple[int, int], price: Price) -> None:
        """Replace what was reserved for a request by what it used; both (prompt, completion) tokens."""
        with self._lock:
            self.tokens += sum(used) - sum(reserved)
            self.cost += price.of(*used) - price.of(*reserved)

    def count(self, prompt_tokens: int, completion_tokens: int, price: Price) -> None:
        """Count a request of an earlier run whose answer is used again: it was paid for."""
        with self._lock:
            self.requests += 1
            self.tokens += prompt_tokens + completion_tokens
            self.cost += price.of(prompt_tokens, completion_tokens)

    def _spent(self) -> str:
        return f"used so far: {self.requests} requests, {self.tokens} tokens, cost {self.cost:.4g}"
