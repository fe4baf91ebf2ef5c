"""A person's LoRA adapter as the small `.onnx_adapter` file that fills the slots of a graph.

PEFT's folder is read as it is: no model is loaded, neither torch nor peft is needed. What PEFT adds to plain
LoRA (DoRA, biases, trained embeddings and the like) has no place in a slot and is refused.
"""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.merge import read_adapter
from exporters.onnx.slots import DTYPES, Slot, Slots
from toolkit.errors import AdapterError
from toolkit.files import write_atomic

Matrix = npt.NDArray[np.float32]

# Options of PEFT's LoraConfig that make more of it than W + B @ A * scale, and what they are without effect.
_NOT_PLAIN: dict[str, tuple[object, ...]] = {
    "bias": ("none", None),
    **dict.fromkeys(
        (
            "alora_invocation_tokens",
            "arrow_config",
            "fan_in_fan_out",
            "kasa_config",
            "layer_replication",
            "lora_bias",
            "modules_to_save",
            "monteclora_config",
            "target_parameters",
            "trainable_token_indices",
            "use_bdlora",
            "use_dora",
            "use_qalora",
            "velora_config",
        ),
        (None, False, [], {}),
    ),
}
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_ENTRY_BYTES = 54  # of the file's index for each tensor, besides its name


@dataclass(frozen=True)
class LowRank:
    """The change of one module: W + b @ a, with `a` [rank, in] and `b` [out, rank], scaled already."""

    a: Matrix
    b: Matrix

    @property
    def rank(self) -> int:
        """Number of rows of `a`."""
        return int(self.a.shape[0])


def read_low_rank(folder: Path) -> dict[str, LowRank]:
    """The changes in PEFT's `folder` by the module's name, scaled by alpha / rank (or its square root).

    Raises AdapterError if it is not plain LoRA in safetensors, is damaged, or changes nothing.
    """
    read_adapter(folder)
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    for option, plain in _NOT_PLAIN.items():
        if config.get(option) not in plain:
            raise AdapterError(
                f"has {option} = {config[option]!r:.60}, which an attached adapter cannot do",
                where=str(config_file),
                mend="Export it merged, or fine-tune it as plain LoRA",
            )
    matrices = _read_matrices(folder / "adapter_model.safetensors")
    changes = {}
    for module in sorted({module for module, _ in matrices}):
        a, b = (matrices.get((module, which)) for which in "AB")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise AdapterError(
                f"has no pair of A [rank, in] and B [out, rank] for {module}",
                where=str(folder),
                mend="Fine-tune it again",
            )
        changes[module] = LowRank(a, b * np.float32(_scaling(config, module, a.shape[0], config_file)))
    if not all(np.isfinite(change.a).all() and np.isfinite(change.b).all() for change in changes.values()):
        raise AdapterError("holds values that are not numbers", where=str(folder), mend="Fine-tune it again")
    if not any(change.a.any() and change.b.any() for change in changes.values()):
        raise AdapterError(
            "changes nothing: its B matrices are all zero", where=str(folder), mend="Fine-tune it first"
        )
    return changes


def write_adapter(peft_folder: Path, slots: Slots, out: Path) -> None:
    """Write the adapter in `peft_folder` as the file `out` for a graph with `slots`, whole or not at all.

    Raises AdapterError if it is not plain LoRA, or changes a layer that has no slot or another shape.
    """
    changes = read_low_rank(peft_folder)
    _check_fit(changes, slots, peft_folder)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for slot in slots.slots:
        if any(part.module in changes for part in slot.parts):
            tensors |= _fill(slot, changes, slots.dtype)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise AdapterError(
                f"its values are too large for {slots.dtype} ({name})",
                where=str(peft_folder),
                mend="Export the base with slots of float32",
            )
    write_atomic(out, _pack(tensors))


def adapter_bytes(slots: Slots, rank: int) -> int:
    """Size of an adapter file that fills every one of `slots` at `rank`, in bytes (to about 1 %)."""
    total = 0
    width = np.dtype(DTYPES[slots.dtype]).itemsize
    for slot in slots.slots:
        ranks = rank * len(slot.parts)
        sizes = {slot.a: width * ranks * slot.inputs, slot.b: width * rank * slot.outputs}
        if slots.dtype == "int8":
            sizes[slot.scale] = 4 * ranks
        total += sum(size + len(name) + _ENTRY_BYTES for name, size in sizes.items())
    return total


def _read_matrices(path: Path) -> dict[tuple[str, str], Matrix]:
    """Every matrix of the file as float32, by module and "A" or "B"."""
    import ml_dtypes  # noqa: F401 - with it numpy knows bfloat16
    from safetensors import SafetensorError, safe_open

    matrices = {}
    try:
        with safe_open(path, "np") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                if not (found := _KEY.fullmatch(key)):
                    raise AdapterError(
                        f"holds {key}, which an attached adapter cannot change",
                        where=str(path),
                        mend="Export it merged, or fine-tune only linear layers of the decoder's blocks",
                    )
                module, which = found.groups()
                matrices[module, which] = file.get_tensor(key).astype(np.float32)
    except SafetensorError as error:
        raise AdapterError(
            f"is cut short or damaged ({error})", where=str(path), mend="Copy the adapter again"
        ) from error
    return matrices


def _scaling(config: dict[str, Any], module: str, rank: int, where: Path) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA; patterns overrule per module as in PEFT."""
    said = _pattern(config.get("rank_pattern"), module, config["r"])
    if said != rank:
        raise AdapterError(
            f"says rank {said} for {module}, its A has {rank} rows",
            where=str(where),
            mend="Copy the adapter again",
        )
    alpha = float(_pattern(config.get("alpha_pattern"), module, config["lora_alpha"]))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The first pattern's value that matches the end of the module's name, as PEFT matches it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _check_fit(changes: dict[str, LowRank], slots: Slots, folder: Path) -> None:
    places = slots.modules
    if strays := [module for module in changes if module not in places]:
        kinds = sorted({module.rpartition(".")[2] for module in strays})
        raise AdapterError(
            f"changes {', '.join(kinds)}, for which the base has no slot ({len(strays)} layers, the first "
            f"{strays[0]})",
            where=str(folder),
            mend=f"Its slots: {', '.join(slots.targets)}. Export the base with slots for all of them",
        )
    for module, change in changes.items():
        slot, part = places[module]
        if (change.a.shape[1], change.b.shape[0]) != (slot.inputs, part.outputs):
            raise AdapterError(
                f"does not fit the base: it changes {module} from {change.a.shape[1]} to {change.b.shape[0]} "
                f"values, the base has {slot.inputs} to {part.outputs}",
                where=str(folder),
                mend="It was trained on another base",
            )


def _fill(slot: Slot, changes: dict[str, LowRank], dtype: str) -> dict[str, npt.NDArray[Any]]:
    """The slot's inputs. Parts of a fused layer share one rank, the largest: shorter ones end in zeros."""
    rank = max(changes[part.module].rank for part in slot.parts if part.module in changes)
    a = np.zeros((len(slot.parts), rank, slot.inputs), np.float32)
    b = np.zeros((rank, slot.outputs), np.float32)
    scale = np.zeros((len(slot.parts), rank), np.float32)
    for index, part in enumerate(slot.parts):
        if change := changes.get(part.module):
            columns = slice(part.start, part.start + part.outputs)
            a[index, : change.rank], b[: change.rank, columns] = change.a, change.b.T
            if dtype == "int8":
                a[index], step_a = _codes(a[index])
                b[:, columns], step_b = _codes(b[:, columns])
                scale[index] = step_a * step_b
    stored = DTYPES[dtype]
    with np.errstate(over="ignore"):
        tensors = {slot.a: a.reshape(-1, slot.inputs).astype(stored), slot.b: b.astype(stored)}
    return tensors | ({slot.scale: scale.ravel()} if dtype == "int8" else {})


def _codes(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Whole numbers from -127 to 127 for each row, and each row's step; a row of zeros has step 0."""
    step = np.abs(rows).max(axis=1) / np.float32(127)
    return np.rint(rows / np.where(step, step, 1)[:, None]), step


def _pack(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """ONNX Runtime's file of these tensors."""
    import onnxruntime as ort

    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters(
        {name: ort.OrtValue.ortvalue_from_numpy(tensor) for name, tensor in tensors.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter"
        adapter.export_adapter(str(path))
        return path.read_bytes()
