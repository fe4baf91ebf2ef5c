"""The ExecuTorch engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporters.bundle import attached_files
from runtimes.engine import Engine, Logits, first_line
from toolkit.errors import BundleError
from toolkit.native_output import natively_hushed

PROGRAM, BASE = "model.pte", "base.ptd"


class ExecuTorchEngine(Engine):
    """A folder with `model.pte`, and `base.ptd` where adapters are attached, run by ExecuTorch on the CPU.

    `threads` sets ExecuTorch's thread pool, of which a process has one: the last engine that asked for a
    number of threads decides for all. None leaves it as it is. Attached adapters are programs over the same
    base; the one in use is the only one in memory.
    Raises BundleError if the program cannot be loaded.
    """

    name = "executorch"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        with natively_hushed():
            import torch  # first: its libraries must be there before the runtime's

            # Not through executorch's own modules: they import its exporter and torch's compiler, which takes
            # seconds, and a device has neither.
            from executorch.extension.pybindings import _portable_lib as portable_lib
            from executorch.version import __version__

            for library in _operators(Path(portable_lib.__file__).parents[2]):
                torch.ops.load_library(library)
            if threads is not None:
                portable_lib._unsafe_reset_threadpool(threads)
                torch.set_num_threads(threads)  # ExecuTorch's own operators take torch's threads
        self.version = __version__
        self._torch, self._runtime, self._folder = torch, portable_lib, folder
        self._position = 0
        self._adapter: str | None = None
        self._program: Any = None
        self._load(folder / PROGRAM, "Check it with `edgeplm verify`, or export it again")

    @property
    def adapters(self) -> list[str]:
        return list(attached_files(self._folder))

    def use_adapter(self, name: str | None) -> None:
        files = attached_files(self._folder)
        if name is not None and name not in files:
            super().use_adapter(name)
            return
        if name == self._adapter and self._program is not None:
            self._position = 0  # what it remembers may have been read by somebody else
            return
        path = self._folder / PROGRAM if name is None else files[name]
        self._adapter = name
        self._load(path, "Put the adapter in again with `edgeplm adapters add`")

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
        self._program = None

    def _load(self, path: Path, mend: str) -> None:
        self.close()  # before the next one takes memory
        base = self._folder / BASE
        try:
            path.stat()
            with natively_hushed():
                program = self._runtime._load_for_executorch(str(path), str(base) if base.is_file() else None)
                self.context_length = int(program.run_method("get_max_context_len", [])[0])
                self.vocab_size = int(program.run_method("get_vocab_size", [])[0])
                # The first call reads and packs the weights, which is where damage shows.
                program.run_method("forward", self._inputs([0], 0))
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            raise BundleError(
                f"ExecuTorch {self.version} cannot load it ({first_line(error)})", where=str(path), mend=mend
            ) from error
        self._program = program

    def _step(self, ids: list[int]) -> Logits:
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"the model has no token {token}")
        outputs = self._program.run_method("forward", self._inputs(ids, self._position))
        self._position += len(ids)
        return np.array(outputs[0].numpy(), dtype=np.float32).reshape(-1)

    def _inputs(self, ids: list[int], position: int) -> list[Any]:
        return [self._torch.tensor([ids]), self._torch.tensor([position])]


def _operators(package: Path) -> list[Path]:
    """The libraries of `package` that register the operators of language models and of quantised tensors."""
    folders = (package / "extension/llm/custom_ops", package / "kernels/quantized")
    return [library for folder in folders for library in folder.glob("*_ops_aot_lib.*")]
