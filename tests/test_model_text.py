"""Text that a model writes, to calibrate on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, tiny_base

from exporters.quantise.calibrate import calibration_windows
from exporters.quantise.model_text import cached_model_text, write_model_text
from toolkit.finetune import open_chat
from toolkit.models import BaseModel, load_model

pytestmark = pytest.mark.usefixtures("one_thread")


def write(base: BaseModel, model: Any, **changes: Any) -> torch.Tensor:
    return write_model_text(model, open_chat(base), **({"count": 40, "length": 24} | changes))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_model_writes_it(tmp_path: Path, arch: str) -> None:
    base = tiny_base(tmp_path, arch)
    model = load_model(base).eval()
    ids = write(base, model)
    assert ids.shape == (40, 24) and ids.dtype == torch.int64
    assert len(set(map(tuple, ids.tolist()))) == 40
    assert not set(ids[:, 0].tolist()) & set(open_chat(base).tokenizer.all_special_ids)
    assert torch.equal(write(base, model), ids)  # the same at each export
    assert not torch.equal(write(base, model, seed=1), ids)
    # Likelier to the model than the same tokens in another order.
    shuffled = ids[:, torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    assert loss(model, ids) < loss(model, shuffled) - 0.5


@torch.no_grad()
def loss(model: Any, ids: torch.Tensor) -> float:
    logits = model(input_ids=ids).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def test_it_is_written_once(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    chat, loads = open_chat(base), []
    path = tmp_path / "texts" / "base.safetensors"

    def load() -> Any:
        loads.append(1)
        return load_model(base).eval()

    first = cached_model_text(load, chat, path, count=3, length=16)
    assert torch.equal(cached_model_text(load, chat, path, count=3, length=16), first)
    assert len(loads) == 1
    path.write_bytes(path.read_bytes()[:40])
    assert torch.equal(cached_model_text(load, chat, path, count=3, length=16), first)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_it_takes_turns_with_the_neutral_text() -> None:
    windows = calibration_windows([1] * 12, [[2] * 40], [[3] * 4] * 9, count=10, length=4)
    assert windows.own == 5
    assert windows.ids[5:, 0].tolist() == [1, 3, 1, 3, 1]
    many = calibration_windows([1] * 4, (), [[3] * 4] * 9, count=5, length=4)
    assert many.ids[:, 0].tolist() == [1, 3, 3, 3, 3]
