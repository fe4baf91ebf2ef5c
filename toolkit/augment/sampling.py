"""What a local teacher may write next: seeded sampling, without reciting the prompt.

Both classes are logits processors for transformers' generate().
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

_CANDIDATES = 1000
_RUN = 6


class Sampler:
    """Temperature and nucleus sampling by the Gumbel-max trick, with one generator a row.

    argmax(logits / temperature + Gumbel noise) draws from the softmax exactly, the noise being minus the
    logarithm of an exponential variable. So generate()'s greedy path, which takes no generator, becomes a
    seeded sampler. Only the likeliest `_CANDIDATES` tokens take part: sorting a whole vocabulary at every
    step costs as much as a small model.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores in which each row's drawn token is the highest. Shapes: [rows, vocabulary]."""
        import torch

        if self._temperature == 0:
            return scores
        logits = scores.float() / self._temperature
        likeliest, tokens = logits.topk(min(_CANDIDATES, logits.shape[-1]), dim=-1)
        probabilities = (likeliest - logits.logsumexp(dim=-1, keepdim=True)).exp()
        outside = probabilities.cumsum(dim=-1) - probabilities >= self._top_p
        waits = torch.stack(
            [torch.empty(tokens.shape[-1]).exponential_(generator=each) for each in self._generators]
        )
        noise = -waits.clamp(min=torch.finfo(torch.float32).tiny).log()
        noisy = (likeliest + noise.to(likeliest.device)).masked_fill(outside, float("-inf"))
        drawn = tokens.gather(-1, noisy.argmax(dim=-1, keepdim=True))
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn, 0.0)


class NoCopying:
    """Keeps the answer from reciting a shot, or from going round in circles.

    No token may complete a run of `_RUN` tokens that the prompt holds exactly once: what the person says
    again and again stays allowed, what one shot says does not get copied. Nor a run that the answer itself
    holds twice.
    """

    def __init__(self, prompt_length: int) -> None:
        self._prompt_length = prompt_length
        self._runs: list[_Runs] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores with the forbidden tokens at minus infinity. Shapes: [rows, vocabulary]."""
        rows = input_ids.tolist()
        if not self._runs:
            self._runs = [_Runs(row[: self._prompt_length]) for row in rows]
        for place, (row, runs) in enumerate(zip(rows, self._runs, strict=True)):
            answer = row[self._prompt_length :]
            if banned := runs.banned(row[-(_RUN - 1) :], answer):
                scores[place, banned] = float("-inf")
        return scores


class _Runs:
    """How often each run of `_RUN` tokens occurs in a prompt and in the answer to it."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._in_prompt = _followers(prompt)
        self._in_answer: dict[tuple[int, ...], Counter[int]] = {}

    def banned(self, last: Sequence[int], answer: Sequence[int]) -> list[int]:
        """Tokens that may not follow the `last` ones."""
        if len(answer) >= _RUN:
            start = tuple(answer[-_RUN:-1])
            self._in_answer.setdefault(start, Counter())[answer[-1]] += 1
        recited = self._in_prompt.get(tuple(last), Counter())
        circling = self._in_answer.get(tuple(last), Counter())
        return [token for token, times in recited.items() if times == 1] + [
            token for token, times in circling.items() if times > 1
        ]


def _followers(ids: Sequence[int]) -> dict[tuple[int, ...], Counter[int]]:
    """For every run of `_RUN` - 1 tokens, the tokens that follow it and how often."""
    found: dict[tuple[int, ...], Counter[int]] = {}
    for place in range(len(ids) - _RUN + 1):
        start = tuple(ids[place : place + _RUN - 1])
        found.setdefault(start, Counter())[ids[place + _RUN - 1]] += 1
    return found
