"""Neutral texts, written for this project: English prose to evaluate on, another to calibrate with.

`evaluation.txt` is never used to make an artifact, so that perplexity on it is honest.
"""

from functools import cache
from importlib.resources import files
from typing import Any


@cache
def evaluation_text() -> str:
    """Encyclopaedic prose for perplexity and KL divergence."""
    return files(__package__).joinpath("evaluation.txt").read_text(encoding="utf-8")


@cache
def calibration_text() -> str:
    """Text of many registers and some languages to calibrate a quantiser with, well mixed from its start."""
    return files(__package__).joinpath("calibration.txt").read_text(encoding="utf-8")


def neutral_windows(chat: Any, length: int, count: int) -> list[list[int]]:
    """The first `count` windows of `length` tokens of the evaluation text, without overlap."""
    ids = list(chat.tokenizer(evaluation_text(), add_special_tokens=False)["input_ids"])
    windows = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    return windows[:count]
