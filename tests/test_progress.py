import io
import re
import sys

import pytest

from toolkit.progress import TerminalProgress


@pytest.mark.parametrize("label", ["Short", "Fine-tuning on real and synthetic (1,300 examples)"])
def test_a_bar_of_80_columns_keeps_amount_time_left_and_rate(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with TerminalProgress().step(label, 120, "examples") as advance:
        advance(24)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    last = [line.strip() for line in re.split(r"[\r\n]", plain) if "24/120" in line][-1]
    assert re.search(r"24/120 examples \S+ left [\d,.]+ examples/s$", last)
    assert len(last) <= 80
    assert label.split("(")[0][:5] in last
    assert f"done {label}" in plain


def test_steps_at_the_same_time_have_a_bar_each(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    progress = TerminalProgress()
    with progress.step("ssh://[pi]", 5, "repeats") as first:
        with progress.step("local", 5, "repeats") as second:
            first(2)
            second(3)
            bars = progress._bars
            bars.refresh()
            assert len(bars.tasks) == 2
        first(1)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    both = plain[plain.index("2/5 repeats") :]
    assert "3/5 repeats" in both
    assert "done ssh://[pi]" in plain
    assert "done local" in plain
    assert progress._bars is None
