"""LoRA slots in a decoder graph: one quantised base for everyone, a small adapter for each person.

A slot stands behind a linear layer of the graph that onnxruntime-genai's builder made, float or quantised:

    y = linear(x) + (x @ A.T) @ B        A [ranks, in], B [rank, out]

A and B are initialisers that are graph inputs too, so that ONNX Runtime's own adapters replace them at run
time (`RunOptions.add_active_adapter`, `onnxruntime_genai.Adapters`). The rank is free; by default they are
zeros of rank 1, and the base answers unchanged. Where q, k and v, or two of them, are one layer of several
parts, A holds the parts' rows one after the other, B their columns side by side, and a mask in the graph
spreads B over its block diagonal, so that a file does not carry the zeros around it. A and B are stored as
the slots' `dtype`: float32, float16, or int8 with a float32 scale for each row of A.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import BundleError, EdgePLMError, ModelError
from toolkit.files import write_atomic
from toolkit.json_dataclass import read_dataclass

if TYPE_CHECKING:
    import onnx

SPEC_KEY = "edgeplm.lora_slots"
ALL_LINEAR = "all-linear"
DTYPES: dict[str, npt.DTypeLike] = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
DEFAULT_DTYPE = "int8"

# /model/layers.0/attn/qkv_proj/MatMul, or MatMul_Q4 once quantised; model.layers.0.self_attn.q_proj/MatMul
# where the graph is torch's.
_LINEAR = re.compile(r"/?model[./]layers\.(\d+)[./](\w+)[./](\w+)/MatMul(?:_Q\d+)?")
_BLOCKS = {"attn": "self_attn"}  # what transformers calls the builder's blocks, where it is not the same
_MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
# Layers that the graph computes as one: all three, or those whose weights are on the same grid.
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "qk_proj": ("q_proj", "k_proj"),
    "kv_proj": ("k_proj", "v_proj"),
}


@dataclass(frozen=True)
class Part:
    """One linear layer of the transformers model, and its columns in the graph's layer."""

    module: str
    start: int
    outputs: int


@dataclass(frozen=True)
class Slot:
    """A linear layer of the graph, [inputs] to [outputs], that takes a low-rank change of `parts`."""

    name: str
    inputs: int
    outputs: int
    parts: list[Part]

    @property
    def a(self) -> str:
        """Graph input A [parts * rank, inputs]."""
        return f"{self.name}.lora_A"

    @property
    def b(self) -> str:
        """Graph input B [rank, outputs]."""
        return f"{self.name}.lora_B"

    @property
    def scale(self) -> str:
        """Graph input of int8 slots: float32 [parts * rank], the step of A's row times that of B's row."""
        return f"{self.name}.lora_scale"

    @property
    def mask(self) -> npt.NDArray[np.float32]:
        """[parts, 1, outputs]: one where a column belongs to the part."""
        mask = np.zeros((len(self.parts), 1, self.outputs), np.float32)
        for index, part in enumerate(self.parts):
            mask[index, 0, part.start : part.start + part.outputs] = 1
        return mask


@dataclass(frozen=True)
class Slots:
    """All slots of a graph; it is kept in the graph's metadata under `SPEC_KEY`."""

    dtype: str
    slots: list[Slot]

    @property
    def modules(self) -> dict[str, tuple[Slot, Part]]:
        """Slot and part by the transformers module's name."""
        return {part.module: (slot, part) for slot in self.slots for part in slot.parts}

    @property
    def targets(self) -> list[str]:
        """Kinds of layers that have a slot, such as q_proj."""
        return sorted({_kind(module) for module in self.modules})


def plan_slots(model: "onnx.ModelProto", targets: Sequence[str], dtype: str = DEFAULT_DTYPE) -> Slots:
    """The slots that `add_slots` would put into the graph, which stays as it is.

    `targets` are kinds of layers as in PEFT's `target_modules` (q_proj, v_proj, ...), or "all-linear". Raises
    ModelError, with the kinds that there are, for one that the graph does not have.
    """
    if dtype not in DTYPES:
        raise EdgePLMError(f"slots cannot hold {dtype!r}", where="export", mend=f"Known: {', '.join(DTYPES)}")
    linears = list(_linears(model))
    known = sorted({_kind(part.module) for linear in linears for part in linear.parts})
    wanted = set(known) if ALL_LINEAR in targets else set(targets)
    if missing := sorted(wanted - set(known)) or ["none"] * (not wanted):
        raise ModelError(
            f"its graph has no linear layer of the kind {', '.join(missing)} to put a LoRA slot at",
            where="export",
            mend=f"Kinds it has: {', '.join(known) or 'none'}",
        )
    chosen = [
        replace(linear, parts=[part for part in linear.parts if _kind(part.module) in wanted])
        for linear in linears
    ]
    return Slots(dtype, [slot for slot in chosen if slot.parts])


def add_slots(model: "onnx.ModelProto", targets: Sequence[str], dtype: str = DEFAULT_DTYPE) -> Slots:
    """Put LoRA slots into the builder's decoder graph `model`, in place; returns what was added.

    Weights are not looked at, so `model` may be loaded without its external data. Raises ModelError for a
    target that the graph does not have and for a graph that has slots already.
    """
    from onnx.helper import make_opsetid, set_model_props

    if any(entry.key == SPEC_KEY for entry in model.metadata_props):
        raise ModelError("its graph has LoRA slots already", where="export", mend="Add them once")
    plan = plan_slots(model, targets, dtype)
    by_name = {slot.name: slot for slot in plan.slots}
    nodes, known = [], {initializer.name for initializer in model.graph.initializer}
    for node in model.graph.node:
        nodes.append(node)
        if (name := _name(node)) in by_name:
            nodes += _insert(model.graph, node, by_name[name], dtype, known)
    reordered = type(model.graph)(node=nodes)  # a copy, before the nodes go
    model.graph.ClearField("node")
    model.graph.node.MergeFrom(reordered.node)
    if all(entry.domain != _MICROSOFT for entry in model.opset_import):
        model.opset_import.append(make_opsetid(_MICROSOFT, 1))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    set_model_props(model, {**properties, SPEC_KEY: json.dumps(asdict(plan), separators=(",", ":"))})
    return plan


def add_slots_to_folder(folder: Path, targets: Sequence[str], dtype: str = DEFAULT_DTYPE) -> Slots:
    """`add_slots` to the builder's folder; weights in external data stay as they are.

    ONNX Runtime warns of each of the slots' initialisers that it cannot treat them as constants, which is
    their purpose: genai_config.json is told to log errors only. Raises as `add_slots` does.
    """
    import onnx

    graph = folder / "model.onnx"
    model = onnx.load(graph, load_external_data=False)
    plan = add_slots(model, targets, dtype)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["decoder"].setdefault("session_options", {})["log_severity_level"] = 3
    write_atomic(graph, model.SerializeToString())
    write_atomic(folder / "genai_config.json", json.dumps(config, indent=4) + "\n")
    return plan


def read_slots(graph: Path) -> Slots:
    """The slots of a graph file. Raises BundleError if it cannot be read or has none."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    mend = "Export the bundle again"
    try:
        model = onnx.load(graph, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise BundleError(f"is no ONNX graph ({error})", where=str(graph), mend=mend) from error
    spec = {entry.key: entry.value for entry in model.metadata_props}.get(SPEC_KEY)
    if spec is None:
        raise BundleError(
            "has no LoRA slots, so no adapter can be attached to it",
            where=str(graph),
            mend="Export it with `--form attached`",
        )
    try:
        data = json.loads(spec)
    except ValueError:
        data = None
    where = f"{graph}, {SPEC_KEY}"
    if not isinstance(data, dict) or data.get("dtype") not in DTYPES:
        raise BundleError("is not a list of LoRA slots", where=where, mend=mend)
    slots: Slots = read_dataclass(Slots, data, where=where, mend=mend, error=BundleError)
    return slots


def _linears(model: "onnx.ModelProto") -> Iterator[Slot]:
    """Every linear layer of the decoder's blocks with all of its parts; the output head is none of them."""
    sizes = {initializer.name: list(initializer.dims) for initializer in model.graph.initializer}
    heads = {}
    for node in model.graph.node:
        attributes = _integers(node)
        if "num_heads" in attributes and node.op_type.endswith("Attention"):
            block = node.name.rpartition("/")[0]
            heads[block] = (attributes["num_heads"], attributes.get("kv_num_heads", attributes["num_heads"]))
    for node in model.graph.node:
        found = _LINEAR.fullmatch(node.name)
        if not found or node.op_type not in ("MatMul", "MatMulNBits"):
            continue
        layer, block, kind = found.groups()
        attributes = _integers(node)
        if node.op_type == "MatMulNBits":
            inputs, outputs = attributes["K"], attributes["N"]
        elif len(sizes.get(node.input[1], ())) == 2:
            inputs, outputs = sizes[node.input[1]]
        else:
            continue  # a product of two computed tensors is no linear layer
        prefix = f"model.layers.{layer}.{_BLOCKS.get(block, block)}"
        parts = [Part(f"{prefix}.{kind}", 0, outputs)]
        if kind in _FUSED:
            parts = _fused_parts(prefix, kind, outputs, heads.get(f"/model/layers.{layer}/{block}"))
        yield Slot(f"model.layers.{layer}.{block}.{kind}", inputs, outputs, parts)


def _fused_parts(prefix: str, kind: str, outputs: int, heads: tuple[int, int] | None) -> list[Part]:
    """What is fused, in the order of the graph's layer `kind`; the widths follow from the heads."""
    names = _FUSED[kind]
    counts = [heads[name != "q_proj"] for name in names] if heads else []
    if not counts or outputs % sum(counts):
        raise ModelError(
            f"its graph does not tell the widths of {', '.join(names)} in {prefix}",
            where="export",
            mend="Export it merged, with `--form merged`",
        )
    widths = [count * outputs // sum(counts) for count in counts]
    starts = [sum(widths[:index]) for index in range(len(widths))]
    return [
        Part(f"{prefix}.{name}", start, width)
        for name, start, width in zip(names, starts, widths, strict=True)
    ]


def _insert(graph: Any, linear: Any, slot: Slot, dtype: str, known: set[str]) -> Iterable[Any]:
    """Make `linear` write elsewhere, add the slot's inputs, return the nodes that make its output anew."""
    from onnx import TensorProto, helper, numpy_helper

    root, count = linear.name.rpartition("/")[0] + "/lora", len(slot.parts)
    result, before = linear.output[0], f"{root}/base"
    linear.output[0] = before
    nodes: list[Any] = []

    def constant(name: str, value: npt.NDArray[Any]) -> str:
        if name not in known:
            known.add(name)
            graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def graph_input(name: str, default: npt.NDArray[Any], shape: list[str | int]) -> str:
        graph.initializer.append(numpy_helper.from_array(default, name))
        kind = helper.np_dtype_to_tensor_dtype(default.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def node(op: str, step: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{root}/{step}/output_0"
        nodes.append(helper.make_node(op, inputs, [output], name=f"{root}/{step}", **attributes))
        return output

    rank = f"{slot.name}.rank"
    ranks = rank if count == 1 else f"{slot.name}.ranks"
    stored = DTYPES[dtype]
    a = graph_input(slot.a, np.zeros((count, slot.inputs), stored), [ranks, slot.inputs])
    b = graph_input(slot.b, np.zeros((1, slot.outputs), stored), [rank, slot.outputs])
    if dtype == "int8":
        scale = graph_input(slot.scale, np.zeros(count, np.float32), [ranks])
        a = node("DequantizeLinear", "A/DequantizeLinear", a, scale, axis=0)
    elif dtype == "float16":
        a = node("Cast", "A/Cast", a, to=TensorProto.FLOAT)
    if dtype != "float32":
        b = node("Cast", "B/Cast", b, to=TensorProto.FLOAT)
    if count > 1:
        widths = "_".join(f"{part.start}.{part.outputs}" for part in slot.parts)
        mask = constant(f"/lora/mask_{slot.outputs}_{widths}", slot.mask)
        shape = constant(f"/lora/shape_{slot.outputs}", np.array([-1, slot.outputs], np.int64))
        b = node("Reshape", "B/Reshape", node("Mul", "B/Mul", b, mask), shape)
    # A's rows lie as PEFT's do; the product with rows is faster than one with columns, too.
    low = node("FusedMatMul", "A/MatMul", linear.input[0], a, domain=_MICROSOFT, transB=1)
    change = node("MatMul", "B/MatMul", low, b)
    node("Add", "Add", before, change, output=result)
    return nodes


def _name(node: Any) -> str | None:
    found = _LINEAR.fullmatch(node.name)
    return "model.layers.{}.{}.{}".format(*found.groups()) if found else None


def _kind(module: str) -> str:
    return module.rpartition(".")[2]


def _integers(node: Any) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute if attribute.type == attribute.INT}
