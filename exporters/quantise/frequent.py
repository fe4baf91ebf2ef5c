"""Which tokens a person is most likely to read and write, whoever they are."""

from typing import Any

import torch

from exporters.texts import calibration_text

# Fewer occurrences in the text say less than a token's place in the vocabulary.
_OFTEN = 4
_TILE = 32  # rows that kernels compute together


def frequent_tokens(tokenizer: Any, size: int, share: float) -> torch.Tensor:
    """The ids of a `share` of a vocabulary of `size`, int64, ascending: those that are frequent.

    First come those that every chat has, and those that a neutral text has several times; then all by their
    ids: vocabularies are in the order of their merges, the frequent first, but SentencePiece's have single
    characters at the end. Nothing of a person's has a say, since the choice can be read in an artifact.
    """
    ids = torch.tensor(tokenizer(calibration_text(), add_special_tokens=False)["input_ids"])
    often = torch.bincount(ids, minlength=size)[:size] >= _OFTEN
    template = str(tokenizer.chat_template or "")
    in_chat = [id for id, token in tokenizer.added_tokens_decoder.items() if token.content in template]
    often[[*tokenizer.all_special_ids, *in_chat]] = True
    order = torch.argsort((~often).int(), stable=True)
    return order[: round(share * size / _TILE) * _TILE].sort().values
