"""The ONNX Runtime GenAI engine."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporters.bundle import attached_files
from runtimes.engine import Engine, Logits, first_line
from toolkit.errors import BundleError


class GenAIEngine(Engine):
    """A folder with `genai_config.json`, run by onnxruntime-genai on the CPU.

    `threads` sets ONNX Runtime's intra-op threads; None leaves the choice to the runtime. Adapters that the
    folder's manifest names as attached are read when they are first used, and stay in memory.
    Raises BundleError if the runtime cannot load the folder.
    """

    name = "onnxruntime-genai"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        import onnxruntime_genai as og

        og.disable_telemetry_events()
        self.version = og.__version__
        self._og = og
        try:
            settings = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
            self.context_length = int(settings["search"]["max_length"])
            self.vocab_size = int(settings["model"]["vocab_size"])
            config = og.Config(os.fspath(folder))
            if threads is not None:
                options = {"intra_op_num_threads": threads}
                config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._model: Any = og.Model(config)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise BundleError(
                f"onnxruntime-genai {self.version} cannot load it ({first_line(error)})",
                where=str(folder),
                mend="Check it with `edgeplm verify`, or export it again",
            ) from error
        self._generator: Any = None
        self._folder = folder
        self._adapter: str | None = None
        self._adapters: Any = None
        self._loaded: set[str] = set()

    @property
    def adapters(self) -> list[str]:
        return list(attached_files(self._folder))

    def use_adapter(self, name: str | None) -> None:
        if name is not None and name not in self._loaded:
            self._load_adapter(name)
        self._generator = None  # what it remembers was read by somebody else
        self._adapter = name

    def prefill(self, ids: Sequence[int]) -> Logits:
        return self._next_logits(self._start(ids))

    def decode(self, token: int) -> Logits:
        if self._generator is None:
            raise RuntimeError("decode before prefill")
        self._generator.append_tokens(np.array([[token]], dtype=np.int32))
        return self._next_logits(self._generator)

    def close(self) -> None:
        self._generator = None
        self._adapters = None
        self._loaded.clear()
        self._model = None

    def _load_adapter(self, name: str) -> None:
        path = attached_files(self._folder).get(name)
        if path is None:
            super().use_adapter(name)
            return
        try:
            self._adapters = self._adapters or self._og.Adapters(self._model)
            self._adapters.load(os.fspath(path), name)
        except RuntimeError as error:
            raise BundleError(
                f"onnxruntime-genai {self.version} cannot load it ({first_line(error)})",
                where=str(path),
                mend="Put the adapter in again with `edgeplm adapters add`",
            ) from error
        self._loaded.add(name)

    def _start(self, ids: Sequence[int]) -> Any:
        self.check_length(ids)
        parameters = self._og.GeneratorParams(self._model)
        # The KV cache is allocated for max_length at once, so it is bounded by the bundle's context.
        parameters.set_search_options(max_length=self.context_length, do_sample=False)
        generator = self._og.Generator(self._model, parameters)
        if self._adapter is not None:
            generator.set_active_adapter(self._adapters, self._adapter)
        generator.append_tokens(np.array([list(ids)], dtype=np.int32))
        self._generator = generator
        return generator

    @staticmethod
    def _next_logits(generator: Any) -> Logits:
        return np.array(generator.get_logits(), dtype=np.float32).reshape(-1)
