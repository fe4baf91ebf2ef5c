"""What the export study compares: our presets, and other tools' artifacts of the same model."""

from dataclasses import dataclass
from importlib.util import find_spec

OURS, BUILDER, LLAMA_CPP, TORCH = "EdgePLM", "onnxruntime-genai builder", "llama.cpp", "torch"
# All of them are made for, or opened with, this context: a KV cache's size is part of what is measured.
CONTEXT_LENGTH = 1024
REFERENCE = "builder-int4"
# Not read from exporters.presets, which needs torch: a process that measures has the runtime and no more.
PRESETS = {"onnx": ("smallest", "balanced", "faithful", "exact"),
           "executorch": ("smallest", "balanced", "faithful")}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One artifact; `option` is what its maker calls the precision, `runtime` is what runs it."""

    name: str
    family: str
    option: str
    runtime: str


def _all_subjects() -> dict[str, Subject]:
    listed = [
        *(
            Subject(f"{runtime}-{preset}", OURS, preset, runtime)
            for runtime, presets in PRESETS.items()
            for preset in presets
        ),
        *(Subject(f"builder-{option}", BUILDER, option, "onnx") for option in ("int4", "k-quant", "fp32")),
        *(
            Subject(f"llama.cpp-{option.lower()}", LLAMA_CPP, option, "llama.cpp")
            for option in ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0")
        ),
        Subject("torch-fp32", TORCH, "fp32", "torch"),
    ]
    return {subject.name: subject for subject in listed}


SUBJECTS = _all_subjects()
_PACKAGES = {
    "onnx": ("onnxruntime_genai", "onnxruntime-genai"),
    "executorch": ("executorch", "executorch"),
    "llama.cpp": ("llama_cpp", "llama-cpp-python"),
    "torch": ("torch", "torch"),
}


def not_installed(subject: Subject) -> str | None:
    """The package that `subject` needs and this Python lacks; None if all is there."""
    module, package = _PACKAGES[subject.runtime]
    return None if find_spec(module) else package
