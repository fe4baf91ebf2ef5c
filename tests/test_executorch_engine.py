"""The ExecuTorch engine on a tiny program."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_base

from exporters.executorch import PROGRAM, build_executorch
from runtimes.executorch import ExecuTorchEngine
from runtimes.torch_engine import TorchEngine
from toolkit.errors import BundleError
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXT = 96
PROMPT = [7, 300, 41, 9, 55, 120, 33]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(tiny_base(tmp_path_factory.mktemp("model"))).eval()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program")
    build_executorch(model, {}, path, context_length=CONTEXT, bos=1, stop=[2])
    return path


def test_it_reads_decodes_scores_and_generates_as_torch(model: Any, folder: Path) -> None:
    engine, reference = ExecuTorchEngine(folder, threads=1), TorchEngine(model)
    assert (engine.name, engine.context_length, engine.vocab_size) == ("executorch", CONTEXT, 384)
    assert engine.version.startswith("1.")
    assert np.abs(engine.prefill(PROMPT) - reference.prefill(PROMPT)).max() < 1e-3
    assert np.abs(engine.decode(200) - reference.decode(200)).max() < 1e-3
    scores = engine.score(PROMPT)
    assert scores.shape == (len(PROMPT), 384) and scores.dtype == np.float32
    assert np.abs(scores - reference.score(PROMPT)).max() < 1e-3
    assert list(engine.generate(PROMPT, 12, ())) == list(reference.generate(PROMPT, 12, ()))


def test_a_prompt_starts_afresh(folder: Path) -> None:
    engine = ExecuTorchEngine(folder)
    first = engine.prefill(PROMPT)
    engine.prefill(PROMPT[::-1])
    engine.decode(5)
    assert np.array_equal(engine.prefill(PROMPT), first)
    assert np.array_equal(ExecuTorchEngine(folder).prefill(PROMPT), first)


def test_logits_stay_as_they_were_when_the_next_token_is_read(folder: Path) -> None:
    engine = ExecuTorchEngine(folder)
    logits = engine.prefill(PROMPT)
    before = logits.copy()
    engine.decode(5)
    assert np.array_equal(logits, before)


def test_the_context_is_kept_to(folder: Path) -> None:
    engine = ExecuTorchEngine(folder)
    with pytest.raises(RuntimeError, match="decode before prefill"):
        engine.decode(3)
    for length in (0, CONTEXT):
        with pytest.raises(ValueError, match="does not fit"):
            engine.prefill([3] * length)
    engine.prefill([3] * (CONTEXT - 1))
    engine.decode(3)
    with pytest.raises(ValueError, match="is full"):
        engine.decode(3)
    assert len(list(engine.generate([3] * (CONTEXT - 5), 50, ()))) == 5


def test_threads_are_the_runtimes(folder: Path) -> None:
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    for threads in (2, 1):
        ExecuTorchEngine(folder, threads=threads).prefill(PROMPT)
        assert _threadpool_get_thread_count() == threads
    ExecuTorchEngine(folder)
    assert _threadpool_get_thread_count() == 1


def test_tokens_outside_of_the_vocabulary_are_refused(folder: Path) -> None:
    engine = ExecuTorchEngine(folder)
    for token in (384, -1):
        with pytest.raises(ValueError, match=f"no token {token}"):
            engine.prefill([3, token])


@pytest.mark.parametrize("fault", ["missing", "empty", "text", "half", "tail", "head", "foreign"])
def test_a_damaged_program_is_one_clear_error(folder: Path, tmp_path: Path, fault: str) -> None:
    good = (folder / PROGRAM).read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not a program " * 99,
        "half": good[: len(good) // 2],
        "tail": good[:-1],
        "head": bytes(64) + good[64:],
        "foreign": foreign_program() if fault == "foreign" else b"",
    }
    if fault != "missing":
        (tmp_path / PROGRAM).write_bytes(damaged[fault])
    with pytest.raises(BundleError, match="cannot load it") as caught:
        ExecuTorchEngine(tmp_path)
    assert caught.value.where == str(tmp_path / PROGRAM)
    assert caught.value.mend and "\n" not in str(caught.value)


def foreign_program() -> bytes:
    """A program that is no language model."""
    from executorch.exir import to_edge

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    return to_edge(torch.export.export(Twice(), (torch.ones(2),))).to_executorch().buffer
