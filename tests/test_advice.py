"""What a bundle that falls short is told to try."""

from pathlib import Path

import pytest
from bundles import sealed

from exporters.bundle import CalibrationInfo, PrecisionInfo, RuntimeInfo, read_manifest
from toolkit.commands.outcome import advice

NEUTRAL, OWN = CalibrationInfo(64, 0, "ab" * 32), CalibrationInfo(64, 32, "ab" * 32)


@pytest.mark.parametrize(
    ("preset", "calibration", "flag", "said"),
    [
        (
            "smallest",
            None,
            "--",
            "calibrated weights (--calibration own); the finer preset (--preset balanced)",
        ),
        ("balanced", NEUTRAL, "--", "the person's own examples (--profile and --task)"),
        ("balanced", NEUTRAL, "--set export.", "own examples (--set export.calibration=own)"),
        ("balanced", OWN, "--", "What keeps more: the finer preset (--preset faithful)"),
        (
            "smallest",
            OWN,
            "--set export.",
            "What keeps more: the finer preset (--set export.preset=balanced)",
        ),
    ],
)
def test_what_keeps_more(
    preset: str, calibration: CalibrationInfo | None, flag: str, said: str, tmp_path: Path
) -> None:
    precision = PrecisionInfo("int4", "made up", 4.0, preset, calibration)
    assert said in advice(read_manifest(sealed(tmp_path, precision=precision)), flag)


def test_what_can_do_no_more(tmp_path: Path) -> None:
    plain = PrecisionInfo("fp32", "float32", 32.0)
    bundle = sealed(tmp_path, precision=plain, runtime=RuntimeInfo("executorch", "1.0"))
    assert advice(read_manifest(bundle), "--") == "Float keeps all there is to keep."
