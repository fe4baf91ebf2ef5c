"""Greedy answers of a torch model on held-out queries."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from toolkit.chat import ChatFormat
from toolkit.progress import SILENT, Progress

BATCH = 16


@torch.inference_mode()
def greedy_answers(
    model: Any,
    chat: ChatFormat,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    progress: Progress = SILENT,
    label: str = "Answering",
) -> list[str]:
    """One greedy answer a prompt, in the prompts' order; shorter prompts are padded on the left.

    The model's own sampling defaults (a repetition penalty, say) play no part, as they do not in an artifact.
    """
    training, defaults = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    pad = chat.stop[0]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    with progress.step(label, total=len(prompts), unit="queries") as advance:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            longest = max(len(prompts[row]) for row in rows)
            ids = torch.full((len(rows), longest), pad)
            mask = torch.zeros_like(ids)
            for line, row in enumerate(rows):
                ids[line, longest - len(prompts[row]) :] = torch.tensor(list(prompts[row]))
                mask[line, longest - len(prompts[row]) :] = 1
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=chat.stop,
                pad_token_id=pad,
            )
            for line, row in enumerate(rows):
                answers[row] = chat.decode(_until_stop(out[line, longest:].tolist(), chat.stop))
            advance(len(rows))
    model.train(training)
    model.generation_config = defaults
    return answers


def _until_stop(ids: list[int], stop: Sequence[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in stop:
            return ids[:place]
    return ids
