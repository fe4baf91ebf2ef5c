"""The ONNX Runtime GenAI engine."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.engine import Engine, Logits
from toolkit.errors import BundleError


class GenAIEngine(Engine):
    """A folder with `genai_config.json`, run by onnxruntime-genai on the CPU.

    `threads` sets ONNX Runtime's intra-op threads; None leaves the choice to the runtime.
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
                f"onnxruntime-genai {self.version} cannot load it ({_first_line(error)})",
                where=str(folder),
                mend="Check it with `edgeplm verify`, or export it again",
            ) from error
        self._generator: Any = None

    def prefill(self, ids: Sequence[int]) -> Logits:
        return self._next_logits(self._start(ids))

    def decode(self, token: int) -> Logits:
        if self._generator is None:
            raise RuntimeError("decode before prefill")
        self._generator.append_tokens(np.array([[token]], dtype=np.int32))
        return self._next_logits(self._generator)

    def score(self, ids: Sequence[int]) -> Logits:
        logits = np.asarray(self._start(ids).get_output("logits"), dtype=np.float32)[0]
        if logits.shape[0] != len(ids):
            raise BundleError(
                "its graph gives logits for the last token only, so it cannot be scored",
                where=self.name,
                mend="Score the bundle's unpruned twin",
            )
        return logits

    def close(self) -> None:
        self._generator = None
        self._model = None

    def _start(self, ids: Sequence[int]) -> Any:
        self.check_length(ids)
        parameters = self._og.GeneratorParams(self._model)
        # The KV cache is allocated for max_length at once, so it is bounded by the bundle's context.
        parameters.set_search_options(max_length=self.context_length, do_sample=False)
        generator = self._og.Generator(self._model, parameters)
        generator.append_tokens(np.array([list(ids)], dtype=np.int32))
        self._generator = generator
        return generator

    @staticmethod
    def _next_logits(generator: Any) -> Logits:
        return np.array(generator.get_logits(), dtype=np.float32).reshape(-1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
