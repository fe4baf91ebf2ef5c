"""The ExecuTorch engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.engine import Engine, Logits
from toolkit.errors import BundleError

PROGRAM = "model.pte"


class ExecuTorchEngine(Engine):
    """A folder with `model.pte`, run by ExecuTorch on the CPU.

    `threads` sets ExecuTorch's thread pool, of which a process has one: the last engine that asked for a
    number of threads decides for all. None leaves it as it is.
    Raises BundleError if the program cannot be loaded.
    """

    name = "executorch"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        # torch's libraries must be loaded before the runtime's; the others register operators.
        import executorch.extension.llm.custom_ops.custom_ops
        import executorch.kernels.quantized  # noqa: F401
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime
        from executorch.version import __version__

        self.version = __version__
        self._torch = torch
        path = folder / PROGRAM
        try:
            path.stat()
            program = Runtime.get().load_program(path)
            self.context_length = int(program.load_method("get_max_context_len").execute([])[0])
            self.vocab_size = int(program.load_method("get_vocab_size").execute([])[0])
            if threads is not None:
                portable_lib._unsafe_reset_threadpool(threads)
            self._forward: Any = program.load_method("forward")
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise BundleError(
                f"ExecuTorch {self.version} cannot load it ({_first_line(error)})",
                where=str(path),
                mend="Check it with `edgeplm verify`, or export it again",
            ) from error
        # A method's memory belongs to its program.
        self._program: Any = program
        self._position = 0

    def prefill(self, ids: Sequence[int]) -> Logits:
        self.check_length(ids)
        self._position = 0
        return self._step(list(ids))

    def decode(self, token: int) -> Logits:
        if self._position == 0:
            raise RuntimeError("decode before prefill")
        if self._position >= self.context_length:
            raise ValueError(f"the context of {self.context_length} tokens is full")
        return self._step([token])

    def close(self) -> None:
        self._position = 0
        self._forward = self._program = None

    def _step(self, ids: list[int]) -> Logits:
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"the model has no token {token}")
        outputs = self._forward.execute([self._torch.tensor([ids]), self._torch.tensor([self._position])])
        self._position += len(ids)
        return np.array(outputs[0].numpy(), dtype=np.float32).reshape(-1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
