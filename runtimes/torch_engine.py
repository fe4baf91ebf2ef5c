"""The reference engine: the float model in torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from runtimes.engine import Engine, Logits


class TorchEngine(Engine):
    """A transformers causal language model, run in its own precision with a KV cache."""

    name = "torch"
    version = torch.__version__

    def __init__(self, model: Any, context_length: int | None = None) -> None:
        config = model.config.get_text_config()
        self._model = model.eval()
        self.vocab_size = int(config.vocab_size)
        longest = int(config.max_position_embeddings)
        self.context_length = min(context_length or longest, longest)
        self._cache: Any = None

    def prefill(self, ids: Sequence[int]) -> Logits:
        self._cache = None
        return self._forward(ids, keep=1)[-1]

    def decode(self, token: int) -> Logits:
        if self._cache is None:
            raise RuntimeError("decode before prefill")
        return self._forward([token], keep=1)[-1]

    def score(self, ids: Sequence[int], first: int = 0) -> Logits:
        self._cache = None
        return self._forward(ids, keep=0)[first:]

    @torch.inference_mode()
    def _forward(self, ids: Sequence[int], keep: int) -> Logits:
        if self._cache is None:
            self.check_length(ids)
        tokens = torch.tensor([list(ids)], device=self._model.device)
        output = self._model(input_ids=tokens, cache=self._cache, use_cache=True, logits_to_keep=keep)
        self._cache = output.cache
        return np.asarray(output.logits[0].float().cpu().numpy(), dtype=np.float32)
