"""How well a bundle answers, on the device itself: greedy answers, the likelihood of given texts,
and the golden prompts of its manifest."""

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtimes.engine import Engine, Logits
from runtimes.plan import Plan
from toolkit.errors import DeviceError

if TYPE_CHECKING:
    from runtimes.agent import Samples


def answers(plan: Plan, engine: Engine, samples: "Samples") -> None:
    """Answer every prompt of the plan, greedily, and write each answer."""
    for index, ids in enumerate(plan.prompts_ids):
        samples.begin(f"answer {index + 1} of {len(plan.prompts_ids)}")
        started = time.perf_counter()
        answer = [int(token) for token in engine.generate(ids, plan.max_new_tokens, plan.stop_ids)]
        samples.emit("answer", index=index, ids=answer, seconds=time.perf_counter() - started)


def scores(plan: Plan, engine: Engine, samples: "Samples") -> None:
    """Score every sequence of the plan and write its mean negative log likelihood in nats a token."""
    for index, ids in enumerate(plan.score_ids):
        samples.begin(f"score {index + 1} of {len(plan.score_ids)}")
        _check(ids, engine)
        started = time.perf_counter()
        losses = negative_log_likelihoods(engine, ids)
        samples.emit(
            "score",
            index=index,
            tokens=len(losses),
            nll=math.fsum(losses) / len(losses),
            seconds=time.perf_counter() - started,
        )


def golden(plan: Plan, engine: Engine, samples: "Samples") -> None:
    """Ask the golden prompts of the plan's bundle again and write what was found; the host judges it."""
    if not plan.golden:
        return
    # Here: what a run does not need is not in its memory.
    from exporters.bundle import read_manifest
    from runtimes.golden import repeats

    samples.begin("golden prompts")
    started = time.perf_counter()
    for index, repeat in enumerate(repeats(engine, read_manifest(Path(plan.bundle)))):
        samples.emit("golden", index=index, seconds=time.perf_counter() - started, **vars(repeat))
        started = time.perf_counter()


def negative_log_likelihoods(engine: Engine, ids: tuple[int, ...]) -> list[float]:
    """-ln p(token | all before it) of every token but the first, in nats.

    The same positions as `Engine.score`, one row of logits at a time: a whole sequence's logits
    [tokens, vocab] would be the largest thing in a small board's memory.
    """
    logits = engine.prefill(ids[:1])
    losses = [_surprise(logits, ids[1])]
    for token, following in pairwise(ids[1:]):
        logits = engine.decode(token)
        losses.append(_surprise(logits, following))
    return losses


def _surprise(logits: Logits, token: int) -> float:
    values = logits.astype(np.float64)
    highest = float(values.max())
    return highest + math.log(float(np.exp(values - highest).sum())) - float(values[token])


def _check(ids: tuple[int, ...], engine: Engine) -> None:
    if len(ids) > engine.context_length:
        raise DeviceError(
            f"a text of {len(ids)} tokens does not fit a context length of {engine.context_length}",
            mend="Cut the texts to score shorter",
        )
    if beyond := [token for token in ids if token >= engine.vocab_size]:
        raise DeviceError(
            f"the model has no token {beyond[0]}", mend="Encode the texts with the bundle's own tokenizer"
        )
