"""Text that a model writes by itself, to calibrate its own quantiser on.

What a model writes unasked is as varied as what it was trained on: prose, code, questions with their answers,
in the languages that it knows. So it serves any model, and no text has to be found for it. Each window begins
with a token drawn at random and goes on at temperature 1, as in LLM-QAT (Liu et al., arXiv 2305.17888,
section 3.1), whose models were trained on what is used here to calibrate.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toolkit.chat import ChatFormat
from toolkit.files import staged_file
from toolkit.progress import SILENT, Progress

_BATCH = 32


def cached_model_text(
    load: Callable[[], Any],
    chat: ChatFormat,
    path: Path,
    *,
    count: int,
    length: int,
    progress: Progress = SILENT,
) -> torch.Tensor:
    """What `write_model_text` gives, from `path`; if it is not there, or damaged, the model that `load` gives
    writes it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        ids = load_file(path)["ids"]
        if ids.shape == (count, length):
            return ids
    except (OSError, SafetensorError, KeyError):
        pass
    ids = write_model_text(load(), chat, count=count, length=length, progress=progress)
    with staged_file(path) as fresh:
        save_file({"ids": ids}, fresh)
    return ids


@torch.no_grad()
def write_model_text(
    model: Any, chat: ChatFormat, *, count: int, length: int, seed: int = 0, progress: Progress = SILENT
) -> torch.Tensor:
    """`count` windows of `length` token ids, int64 [count, length], that causal LM `model` writes.

    Turns may end in them and others begin, as the model has learnt.
    """
    generator = torch.Generator().manual_seed(seed)
    windows = []
    with progress.step("Text to calibrate on (once a model)", total=count * length, unit="tokens") as advance:
        for start in range(0, count, _BATCH):
            ids = _beginnings(chat, min(_BATCH, count - start), generator)
            given, cache = ids, None
            while ids.shape[1] < length:
                out = model(input_ids=given, cache=cache, use_cache=True, logits_to_keep=1)
                chances = out.logits[:, -1].float().softmax(-1)
                given, cache = torch.multinomial(chances, 1, generator=generator), out.cache
                ids = torch.cat((ids, given), 1)
                advance(len(ids))
            windows.append(ids[:, :length])
    return torch.cat(windows)


def _beginnings(chat: ChatFormat, count: int, generator: torch.Generator) -> torch.Tensor:
    """One ordinary token a row, after the token that begins every text where the tokenizer puts one."""
    tokenizer = chat.tokenizer
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([token for token in range(len(tokenizer)) if token not in special])
    first = ordinary[torch.randint(len(ordinary), (count, 1), generator=generator)]
    before = [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id][:1]
    return torch.cat((torch.tensor([before] * count, dtype=torch.long).reshape(count, -1), first), 1)
