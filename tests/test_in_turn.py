"""Decode rates in turn: the ratios are those of the engines, and the command measures real artifacts."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from attached import build, lora, seal
from click.testing import CliRunner
from tiny import tiny_model_folder

from benchmarks.studies.in_turn import command, in_turn
from exporters.adapters import add_adapter
from exporters.onnx.slots import add_slots_to_folder
from runtimes.engine import Engine, Logits
from toolkit.cli import run_to_exit
from toolkit.errors import BundleError, EdgePLMError

pytestmark = pytest.mark.usefixtures("one_thread")


class Paced(Engine):
    """An engine that takes a given time for a token."""

    context_length, vocab_size = 64, 50

    def __init__(self, name: str, seconds: float, calls: list[str]) -> None:
        self.name, self.seconds, self.calls = name, seconds, calls
        self.ids: list[int] = []

    def prefill(self, ids: Sequence[int]) -> Logits:
        self.calls.append(self.name)
        self.ids = list(ids)
        time.sleep(0.02)  # which is not decoding
        return np.zeros(self.vocab_size, np.float32)

    def decode(self, token: int) -> Logits:
        self.ids.append(token)
        time.sleep(self.seconds)
        return np.zeros(self.vocab_size, np.float32)


def test_ratios_are_those_of_the_decode_steps_and_every_round_begins_with_another() -> None:
    calls: list[str] = []
    engines = {name: Paced(name, seconds, calls) for name, seconds in (("a", 0.004), ("b", 0.008))}
    first, second = in_turn(engines, blocks=5, tokens=3, prompt=8)
    assert (first.name, first.ratio.estimate) == ("a", 1.0)
    assert 0.4 < second.ratio.low <= second.ratio.estimate <= second.ratio.high < 0.7
    assert 60 < second.tokens_per_second < 125 < first.tokens_per_second <= 250
    assert calls == ["a", "b", "b", "a"] * 3 + ["a", "b"]  # two rounds of warming up, five that count
    assert len(engines["a"].ids) == 11 and engines["a"].ids == engines["b"].ids


def test_what_does_not_fit_the_context_is_said_before_anything_runs() -> None:
    calls: list[str] = []
    with pytest.raises(EdgePLMError, match="60 and 4 tokens do not fit its context of 64"):
        in_turn({"a": Paced("a", 0, calls)}, blocks=1, tokens=4, prompt=60)
    assert calls == []


def test_a_bundle_with_and_without_an_adapter_beside_the_float_model(tmp_path: Path) -> None:
    built = build(tmp_path, "llama")
    add_slots_to_folder(built.bundle, ["all-linear"])
    seal(built.bundle)
    add_adapter(built.bundle, "anna", lora(built.base, tmp_path / "anna", r=4, seed=1))
    (tmp_path / "other").mkdir()
    names = [str(built.bundle), f"{built.bundle}@anna", str(tiny_model_folder(tmp_path / "other"))]
    words = [*names, "--blocks", "2", "--tokens", "2", "--prompt", "4"]
    done = CliRunner().invoke(command, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert [row["artifact"] for row in found] == names
    assert found[0]["ratio"] == 1.0
    assert all(row["tokens_per_second"] > 0 and row["low"] <= row["ratio"] <= row["high"] for row in found)
    shown = CliRunner().invoke(command, words).output
    assert "tok/s" in shown and "Medians over 2 blocks of 2 tokens after 4" in shown
    with pytest.raises(BundleError, match="no attached adapter 'ben'"):
        command.main([f"{built.bundle}@ben"], standalone_mode=False)


@pytest.mark.parametrize(
    "names, words",
    [(["nowhere"], "no such folder"), (["a@b"], "no such folder"), ([".", "."], "named twice")],
)
def test_what_is_not_there_is_an_error_of_one_line(
    names: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_to_exit(lambda: command.main(names, standalone_mode=False))
    assert ended.value.code == 1
    assert words in capsys.readouterr().err
