"""The bundle: a folder with `manifest.json` beside files in the runtime's own convention.

Standard library only, so that a device, a test or another program can read and check a bundle without
torch or a runtime. Nothing in a bundle is code and nothing is unpickled.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.errors import BundleError
from toolkit.files import sha256_of, write_atomic
from toolkit.json_dataclass import read_dataclass

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
GENAI_CONFIG = "genai_config.json"

ALLOWED_SUFFIXES = frozenset(
    {
        ".onnx",
        ".data",
        ".pte",
        ".ptd",
        ".safetensors",
        ".onnx_adapter",
        ".json",
        ".jinja",
        ".txt",
        ".model",
        ".md",
    }
)


@dataclass(frozen=True)
class BundleFile:
    """One file of the bundle: POSIX path below the bundle's folder, size in bytes, hex sha256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class BaseModelInfo:
    """The model that was personalised; `sha256` is of its float weights as they were used, and `task_adapter`
    of the adapter that was merged into the source's weights first, if there was one."""

    source: str
    sha256: str
    architecture: str
    parameters: int
    licence: str
    task_adapter: str | None = None


@dataclass(frozen=True)
class RuntimeInfo:
    """The runtime that the bundle was made for, and the versions that made it."""

    name: str
    version: str
    made_with: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationInfo:
    """What the quantiser was calibrated on: windows of tokens, `own` of them from people's own examples."""

    windows: int
    own: int
    sha256: str


@dataclass(frozen=True)
class PrecisionInfo:
    """How the weights are stored; `bits_per_weight` counts scales and zero points in."""

    name: str
    scheme: str
    bits_per_weight: float
    preset: str | None = None
    calibration: CalibrationInfo | None = None


@dataclass(frozen=True)
class TokenInfo:
    """Token ids that a generation loop needs; generation ends at any of `stop`.

    `stop_texts` are the texts of those, for runtimes that hand out text only.
    """

    vocab_size: int
    stop: list[int]
    bos: int | None = None
    pad: int | None = None
    stop_texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AdapterInfo:
    """A person's adapter and how it is in the bundle: `merged` into the weights, or `attached`.

    `history_in_prompt` examples of the person's history go before each query, as they did in training.
    """

    name: str
    kind: str
    sha256: str
    rank: int
    alpha: float
    targets: list[str]
    file: str | None = None
    history_in_prompt: int = 0


@dataclass(frozen=True)
class Provenance:
    """Where the personalisation came from: counts and hashes only, never a person's texts."""

    real_examples: int = 0
    synthetic_examples: int = 0
    synthetic_share: float = 0.0
    teacher: str | None = None
    profile_sha256: str | None = None


@dataclass(frozen=True)
class GoldenCheck:
    """A neutral prompt and what this artifact answered on the machine that made it.

    `top_tokens` and `top_logits` are the most likely next tokens after `prompt`: another device must agree
    to within rounding. `continuation` is the greedy continuation, for a person to compare: where two tokens
    are almost equally likely it may part.
    """

    prompt: list[int]
    top_tokens: list[int]
    top_logits: list[float]
    continuation: list[int]


@dataclass(frozen=True)
class ChatForm:
    """What the chat template makes of one user message, for programs without Jinja.

    The prompt is `prefix`, the message, `suffix`. With `trim` the blanks at the message's ends go first.
    """

    prefix: str
    suffix: str
    trim: bool = False

    def render(self, message: str) -> str:
        """The prompt's text, up to where the answer begins."""
        return f"{self.prefix}{message.strip() if self.trim else message}{self.suffix}"


@dataclass(frozen=True)
class Manifest:
    """The contract between exporters, runtimes and apps; `docs/manifest.md` has it field by field."""

    schema_version: int
    name: str
    created: str
    edgeplm_version: str
    base_model: BaseModelInfo
    runtime: RuntimeInfo
    precision: PrecisionInfo
    context_length: int
    tokens: TokenInfo
    chat_template: str | None
    files: list[BundleFile]
    adapters: list[AdapterInfo] = field(default_factory=list)
    task: dict[str, Any] | None = None
    provenance: Provenance | None = None
    verification: dict[str, Any] | None = None
    golden: list[GoldenCheck] = field(default_factory=list)
    chat_form: ChatForm | None = None

    @property
    def total_bytes(self) -> int:
        """Size of all listed files in bytes."""
        return sum(file.bytes for file in self.files)


def list_files(folder: Path, *, exclude: Iterable[str] = (MANIFEST,)) -> list[BundleFile]:
    """Every file below `folder` with its size and hash, in name order.

    Raises BundleError for a kind of file that a bundle may not hold.
    """
    skipped = set(exclude)
    entries = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name in skipped:
            continue
        _check_kind(name, str(path))
        entries.append(BundleFile(name, path.stat().st_size, sha256_of(path)))
    return entries


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, atomically."""
    write_atomic(
        folder / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    )


def read_manifest(folder: Path) -> Manifest:
    """Read and validate `manifest.json`; raises BundleError with the field that is wrong."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(
            "no such folder", where=str(folder), mend="Give the folder that `edgeplm export` wrote"
        )
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"is no bundle: it has no {MANIFEST}", where=str(folder), mend="Make one with `edgeplm export`"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"is not valid JSON ({error})", where=str(path), mend="Export the bundle again"
        ) from None
    if not isinstance(data, dict):
        raise BundleError("is not a JSON object", where=str(path), mend="Export the bundle again")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"schema_version is {version!r}, this EdgePLM reads {SCHEMA_VERSION}",
            where=str(path),
            mend="Export the bundle again, or use the EdgePLM that made it",
        )
    manifest: Manifest = read_dataclass(
        Manifest, data, where=str(path), mend="Export the bundle again", error=BundleError
    )
    seen: set[PurePosixPath] = set()
    for index, entry in enumerate(manifest.files):
        where = f"{path}, files[{index}].path"
        safe_path(folder, entry.path, where=where)
        _check_kind(entry.path, where)
        plain = PurePosixPath(entry.path)  # ./a and a are one file
        if plain in seen:
            raise BundleError(f"lists {entry.path} twice", where=str(path), mend="Export the bundle again")
        seen.add(plain)
    for index, adapter in enumerate(manifest.adapters):
        if adapter.file is not None and PurePosixPath(adapter.file) not in seen:
            raise BundleError(
                f"adapters[{index}].file {adapter.file!r} is not among the files",
                where=str(path),
                mend="Export the bundle again",
            )
    _refuse_native_code(folder / GENAI_CONFIG)
    return manifest


def attached_files(folder: Path) -> dict[str, Path]:
    """The attached adapters' files by name, as the manifest says now; none where there is no manifest.

    Raises BundleError for a manifest that cannot be used.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return {}
    return {
        adapter.name: safe_path(folder, adapter.file, where=str(manifest))
        for adapter in read_manifest(folder).adapters
        if adapter.file is not None
    }


def _refuse_native_code(config: Path) -> None:
    """BundleError if ONNX Runtime GenAI's configuration names a library: the runtime would load and run it.

    Every key is looked at, also where one hides another of the same name.
    """
    keys: set[str] = set()
    try:
        text = config.read_bytes().decode("utf-8")
        json.loads(text, object_pairs_hook=lambda pairs: keys.update(key for key, _ in pairs))
    except FileNotFoundError:
        return
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"is not valid JSON ({error})", where=str(config), mend="Export the bundle again"
        ) from None
    if "custom_ops_library" in keys:
        raise BundleError(
            "names a library of native code (custom_ops_library)",
            where=str(config),
            mend="Do not use this bundle; export it again",
        )


def safe_path(folder: Path, name: str, *, where: str) -> Path:
    """`folder / name`, or BundleError if `name` would lead out of the folder (links followed)."""
    pure = PurePosixPath(name)
    plain = not pure.is_absolute() and ".." not in pure.parts and not {"\\", "\0"} & set(name)
    if plain and pure.parts and ":" not in pure.parts[0] and _stays_inside(folder, pure):
        return folder / pure
    raise BundleError(
        f"{name!r} leaves the bundle's folder", where=where, mend="Do not use this bundle; export it again"
    )


def _stays_inside(folder: Path, name: PurePosixPath) -> bool:
    try:
        return Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))
    except UnicodeEncodeError:  # half a surrogate pair: no file can have this name
        return False


def _check_kind(name: str, where: str) -> None:
    suffix = PurePosixPath(name).suffix
    if suffix not in ALLOWED_SUFFIXES:
        raise BundleError(
            f"a bundle may not hold a {suffix or 'nameless'} file",
            where=where,
            mend=f"Allowed: {', '.join(sorted(ALLOWED_SUFFIXES))}",
        )


def verify_files(folder: Path, manifest: Manifest, *, hashes: bool = True) -> None:
    """Check that every listed file is there with its size and, unless `hashes` is false, its sha256.

    Raises BundleError that names the first file that is missing, cut short or altered.
    """
    for entry in manifest.files:
        path = safe_path(folder, entry.path, where=str(folder / MANIFEST))
        mend = "Copy or export the bundle again"
        if not _is_file(path):
            raise BundleError("is missing", where=str(path), mend=mend)
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(
                f"has {size} bytes, the manifest says {entry.bytes}", where=str(path), mend=mend
            )
        if hashes and sha256_of(path) != entry.sha256:
            raise BundleError(
                "was altered: its sha256 differs from the manifest's", where=str(path), mend=mend
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def open_bundle(folder: Path, *, hashes: bool = True) -> Manifest:
    """`read_manifest` and `verify_files` in one call."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest, hashes=hashes)
    return manifest
