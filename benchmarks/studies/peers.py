"""Other tools' artifacts of the same model: how they are made, and how they are run as an `Engine`."""

import ctypes
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.subjects import CONTEXT_LENGTH
from exporters.bundle import GENAI_CONFIG, MANIFEST
from runtimes.engine import Engine, Logits
from toolkit.errors import BundleError, ModelError
from toolkit.files import write_atomic
from toolkit.models import BaseModel, load_model, write_plain_rope_theta
from toolkit.progress import hushed

GGUF = "model.gguf"
# The builder's own quantisation: (precision, options). Ours has the pruned head too: a fair TTFT needs it.
_BUILDER = {
    "int4": ("int4", ["prune_lm_head=true"]),
    "k-quant": (
        "int4",
        ["algo_config=k_quant_last", "block_size=32", "accuracy_level=4", "prune_lm_head=true"],
    ),
    "fp32": ("fp32", ["prune_lm_head=true"]),
}


def open_subject(folder: Path, threads: int | None = None) -> Engine:
    """The engine of any artifact of the study, known by its files; float weights run in torch."""
    if (folder / MANIFEST).is_file():
        from runtimes import open_engine

        return open_engine(folder, threads)
    if (folder / GGUF).is_file():
        return LlamaCppEngine(folder / GGUF, CONTEXT_LENGTH, threads)
    if (folder / GENAI_CONFIG).is_file():
        from runtimes.genai import GenAIEngine

        return GenAIEngine(folder, threads)
    import torch

    from runtimes.torch_engine import TorchEngine

    if threads is not None:
        torch.set_num_threads(threads)
    return TorchEngine(load_model(BaseModel(str(folder), folder, "", "")), CONTEXT_LENGTH)


def build(base: BaseModel, option: str, out: Path) -> None:
    """onnxruntime-genai's builder with its own quantisation; raises ModelError if it fails."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # this process is the builder's alone
    logging.disable(logging.WARNING)
    precision, options = _BUILDER[option]
    with tempfile.TemporaryDirectory() as name, hushed():
        folder = Path(name)
        for path in base.folder.iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "config.json").unlink()
        shutil.copyfile(base.folder / "config.json", folder / "config.json")
        write_plain_rope_theta(folder)
        from onnxruntime_genai.models import builder

        common = ("", name, os.fspath(out), precision, "cpu", os.fspath(out))
        try:
            builder.create_model(*common, **builder.parse_extra_options(*common, options))
        except (NotImplementedError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"onnxruntime-genai's builder failed ({type(error).__name__}: {error})", where=base.source
            ) from error
    path = out / GENAI_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    context = min(CONTEXT_LENGTH, int(config["model"]["context_length"]))
    config["model"]["context_length"] = context
    config["search"] |= {"max_length": context, "do_sample": False}
    write_atomic(path, json.dumps(config, indent=4) + "\n")


def quantise_gguf(gguf: Path, option: str, out: Path, threads: int) -> None:
    """llama.cpp's own quantisation, as its tool does it; raises ModelError if it fails."""
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{option}")
    settings.nthread = threads
    settings.allow_requantize = True
    done = llama_cpp.llama_model_quantize(os.fsencode(gguf), os.fsencode(out / GGUF), ctypes.byref(settings))
    if done != 0:
        raise ModelError(f"llama.cpp cannot make {option} of it", where=str(gguf))


class LlamaCppEngine(Engine):
    """A GGUF file, run by llama.cpp on the CPU with its own defaults (a float16 KV cache among them).

    Raises BundleError if llama.cpp cannot load it.
    """

    name = "llama.cpp"

    def __init__(self, path: Path, context_length: int, threads: int | None = None) -> None:
        import llama_cpp

        self.version = version("llama-cpp-python")
        self._library = llama_cpp
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), settings)
        if not self._model:
            raise BundleError("llama.cpp cannot load it", where=str(path), mend="Make it again")
        self.context_length = min(context_length, int(llama_cpp.llama_model_n_ctx_train(self._model)))
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = self.context_length
        if threads is not None:
            wanted.n_threads = wanted.n_threads_batch = threads
        self._context: Any = llama_cpp.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise BundleError("llama.cpp has no memory for its context", where=str(path))
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        self._position = 0

    def prefill(self, ids: Sequence[int]) -> Logits:
        self.check_length(ids)
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._position = 0
        return self._step(ids)

    def decode(self, token: int) -> Logits:
        if self._position == 0:
            raise RuntimeError("decode before prefill")
        return self._step([token])

    def close(self) -> None:
        if self._context:
            self._library.llama_free(self._context)
            self._library.llama_model_free(self._model)
        self._context = self._model = None

    def _step(self, ids: Sequence[int]) -> Logits:
        tokens = (self._library.llama_token * len(ids))(*ids)
        batch = self._library.llama_batch_get_one(tokens, len(ids))
        status = self._library.llama_decode(self._context, batch)
        if status != 0:
            raise BundleError(f"llama.cpp stopped with status {status}", where=self.name)
        self._position += len(ids)
        logits = self._library.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).astype(np.float32)
