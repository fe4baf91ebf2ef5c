"""A bundle for the fake engine: a correct manifest, and no model."""

from pathlib import Path

from bundles import sealed

from exporters.bundle import BaseModelInfo, RuntimeInfo, TokenInfo


def fake_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"weights")
    return sealed(
        folder,
        name="fake-int4",
        base_model=BaseModelInfo("org/small-lm", "ab" * 32, "Fake", 50, "Apache-2.0"),
        runtime=RuntimeInfo("fake", "7.0"),
        tokens=TokenInfo(50, [9]),
    )
