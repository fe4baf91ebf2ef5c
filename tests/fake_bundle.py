"""A bundle for the fake engine: a correct manifest, and no model."""

from pathlib import Path

from exporters.bundle import (
    BaseModelInfo,
    Manifest,
    PrecisionInfo,
    RuntimeInfo,
    TokenInfo,
    list_files,
    write_manifest,
)


def fake_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"weights")
    manifest = Manifest(
        schema_version=1,
        name="fake-int4",
        created="2026-03-04T10:11:12+00:00",
        edgeplm_version="0.1.0",
        base_model=BaseModelInfo("org/small-lm", "ab" * 32, "Fake", 50, "Apache-2.0"),
        runtime=RuntimeInfo("fake", "7.0"),
        precision=PrecisionInfo("int4", "groups of 32", 4.5),
        context_length=200,
        tokens=TokenInfo(50, [9]),
        chat_template=None,
        files=list_files(folder),
    )
    write_manifest(folder, manifest)
    return folder
