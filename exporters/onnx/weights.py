"""Quantised weights put into a float graph: MatMul becomes MatMulNBits, the embedding GatherBlockQuantized.

The rest of the graph stays as its maker wrote it. Which MatMul belongs to which module of the model is found
by the weights themselves, not by names: fused projections and other makers' graphs are understood alike, and
what does not equal a module's float weights is never replaced.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from exporters.quantise.grid import QuantisedWeight
from toolkit.errors import ModelError

GRAPH, DATA = "model.onnx", "model.onnx.data"
_DOMAIN = "com.microsoft"
# MatMulNBits quantises its inputs to int8 in blocks: the integer kernels are several times faster.
_INT8_ACTIVATIONS = 4
_OTHERS = "_others"  # ends the names of what serves a weight's rows on its second grid


def place_weights(
    folder: Path, floats: Mapping[str, torch.Tensor], weights: Mapping[str, QuantisedWeight]
) -> None:
    """Replace float weights by quantised ones in `folder`'s model.onnx and its data.

    `floats` are the float32 weights [out, in] of the modules that `weights` has, as the graph was made from
    them; a tied embedding is found through its head. Raises ModelError if a weight is not in the graph, so
    that no layer stays float unnoticed.
    """
    import onnx_ir as ir

    model = ir.load(folder / GRAPH)
    graph = model.graph
    placed: set[str] = set()
    heads: dict[str, list[_Packed]] = {}  # by float initialiser, for an embedding that shares it
    by_first_row = {_key(weight[0].numpy()): name for name, weight in floats.items()}
    for node in list(graph):
        if node.op_type != "MatMul" or node.inputs[1].const_value is None:
            continue
        matrix = node.inputs[1].const_value.numpy()
        names = _modules_of(matrix, floats, by_first_row)
        if not names:
            continue
        stem = node.inputs[1].name
        heads[stem] = _replace_matmul(graph, node, {name: weights[name] for name in names})
        placed.update(names)
    for node in list(graph):
        if node.op_type == "Gather" and (found := _embedding(node, heads, floats, by_first_row)):
            name, stem = found
            packed = heads.get(stem)
            if packed is None:
                parts = enumerate(weights[name].parts)
                packed = [_pack(graph, stem + _OTHERS * index, part) for index, part in parts]
            _replace_gather(graph, node, packed, _places(graph, stem, weights[name]))
            placed.add(name)
    if missing := sorted(set(weights) - placed):
        raise ModelError(
            f"{len(missing)} quantised layers have no place in the graph (the first: {missing[0]})",
            where=str(folder / GRAPH),
            mend="Export with --precision fp32, or report it with the model's config.json",
        )
    _drop_unused(graph)
    _save(model, folder)


def _modules_of(
    matrix: npt.NDArray[Any], floats: Mapping[str, torch.Tensor], by_first_row: Mapping[bytes, str]
) -> list[str]:
    """The modules whose weights, side by side, are `matrix` [in, out]; empty if it is anything else."""
    if matrix.ndim != 2:
        return []
    names, column = [], 0
    while column < matrix.shape[1]:
        name = by_first_row.get(_key(matrix[:, column]))
        if name is None:
            return []
        rows = floats[name].shape[0]
        if not np.array_equal(matrix[:, column : column + rows], floats[name].numpy().T):
            return []
        names.append(name)
        column += rows
    return names


def _embedding(
    node: Any,
    heads: Mapping[str, Any],
    floats: Mapping[str, torch.Tensor],
    by_first_row: Mapping[bytes, str],
) -> tuple[str, str] | None:
    """(module, name of the initialiser) if `node` looks up rows of a quantised module's weights."""
    table = node.inputs[0]
    maker = table.producer() if table is not None else None
    if maker is not None and maker.op_type == "Transpose" and maker.inputs[0].name in heads:
        head = maker.inputs[0]
        name = by_first_row.get(_key(head.const_value.numpy()[:, 0]))
        return (name, head.name) if name else None
    if table is None or table.const_value is None or len(table.const_value.shape) != 2:
        return None
    matrix = table.const_value.numpy()
    name = by_first_row.get(_key(matrix[0]))
    if name is None or not np.array_equal(matrix, floats[name].numpy()):
        return None
    return name, table.name


def _stacked(parts: Sequence[QuantisedWeight]) -> QuantisedWeight:
    """`parts` of one grid one below the other."""
    if len(parts) == 1:
        return parts[0]
    offsets = [part.offsets for part in parts]
    return QuantisedWeight(
        parts[0].grid,
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.zeros for part in parts]),
        torch.cat(offsets) if offsets[0] is not None else None,  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class _Packed:
    """A weight of one grid, and what stands for it in the graph: codes, scales, zeros (and offsets)."""

    weight: QuantisedWeight
    values: Sequence[Any]


def _pack(graph: Any, stem: str, weight: QuantisedWeight) -> _Packed:
    """`weight` as values of the graph, in MatMulNBits' layout.

    The kernels take scales of the activations' type. Where the file has them in float16, a Cast stands
    between, which the runtime computes once, when it loads the model.
    """
    import onnx_ir as ir

    grid, stored = weight.grid, weight
    if weight.offsets is not None:
        # The inputs are rounded, which costs less the smaller the integers they meet: zeros in the middle,
        # which `_with_offsets` makes good.
        stored = replace(weight, zeros=torch.full_like(weight.zeros, grid.middle))
    arrays = {
        f"{stem}_Q{grid.bits}G{grid.block}": pack_codes(stored),
        f"{stem}_scale": weight.scales.to(grid.scale_dtype).numpy(),
        f"{stem}_zp": pack_zeros(stored),
    }
    if weight.offsets is not None:
        arrays[f"{stem}_offset"] = weight.offsets.to(grid.scale_dtype).numpy()
    values = []
    for name, array in arrays.items():
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        graph.register_initializer(value)
        if array.dtype == np.float16:
            cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
            graph.insert_before(graph[0], cast)
            value = cast.outputs[0]
        values.append(value)
    return _Packed(weight, values)


def pack_codes(weight: QuantisedWeight) -> npt.NDArray[np.uint8]:
    """Codes as MatMulNBits keeps them: [out, blocks, block * bits / 8] bytes, the low nibble first."""
    rows, wide = weight.codes.shape
    blocks = weight.scales.shape[1]
    block = weight.grid.block or wide
    padding = blocks * block - wide
    codes = torch.nn.functional.pad(weight.codes, (0, padding)).reshape(rows, blocks, block)
    if padding:  # weights that are not there count as zero
        codes[:, -1, block - padding :] = weight.zeros[:, -1:]
    return _nibbles(codes.numpy()) if weight.grid.bits == 4 else codes.numpy()


def pack_zeros(weight: QuantisedWeight) -> npt.NDArray[np.uint8]:
    """Zeros as MatMulNBits keeps them: [out, bytes], two to a byte for int4."""
    zeros = weight.zeros.numpy()
    if weight.grid.bits == 8:
        return zeros
    return _nibbles(np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2))))


def _nibbles(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values[..., 0::2] | (values[..., 1::2] << 4))


class _Nodes:
    """New nodes in the order in which they compute."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def add(
        self, kind: str, *given: Any, name: str | None = None, domain: str = "", **attributes: Any
    ) -> Any:
        """A node with one output, which is returned."""
        import onnx_ir as ir

        self.made.append(ir.node(kind, given, attributes, domain=domain, name=name))
        return self.made[-1].outputs[0]

    def constant(self, value: Any, dtype: npt.DTypeLike = np.int64) -> Any:
        """A number or an array of them."""
        import onnx_ir as ir

        return self.add("Constant", value=ir.tensor(np.array(value, dtype)))


def _replace_matmul(graph: Any, node: Any, parts: Mapping[str, QuantisedWeight]) -> list[_Packed]:
    """Compute `node` with the quantised `parts` of its matrix, which are returned by grid.

    Those beside each other on the same grid are one product.
    """
    new, products, packed = _Nodes(), [], []
    flat = [(name, part) for name, weight in parts.items() for part in weight.parts]
    for index, (_, same) in enumerate(groupby(flat, key=lambda item: item[1].grid)):
        names, weights = zip(*same, strict=True)
        place, stem = node.name, node.inputs[1].name
        if len(names) < len(parts):
            place = _renamed(place, names)
            stem = place.strip("/").replace("/", ".")
        elif index:
            place, stem = place + _OTHERS, stem + _OTHERS
        packed.append(_pack(graph, stem, _stacked(weights)))
        products.append(_product(new, place, node.inputs[0], packed[-1]))
    result = products[0]
    if len(products) > 1:
        result = new.add("Concat", *products, axis=-1, name=f"{node.name}/Concat")
    for weight in parts.values():
        if (places := _places(graph, node.inputs[1].name, weight)) is not None:
            result = _in_order(new, node.name, result, places)
    _swap(graph, node, new.made, node.outputs[0])
    return packed


def _product(new: _Nodes, place: str, inputs: Any, packed: _Packed) -> Any:
    """The product with one weight, by nodes named after `place`."""
    weight, values = packed.weight, packed.values
    rows, wide = weight.codes.shape
    product = new.add(
        "MatMulNBits",
        inputs,
        *values[:3],
        K=wide,
        N=rows,
        bits=weight.grid.bits,
        block_size=weight.grid.block,
        accuracy_level=_INT8_ACTIVATIONS,
        domain=_DOMAIN,
        name=f"{place}_Q{weight.grid.bits}",
    )
    return product if weight.offsets is None else _with_offsets(new, place, inputs, product, packed)


def _in_order(new: _Nodes, place: str, product: Any, places: Any) -> Any:
    """A product [..., rows] in the order of `places` [rows].

    GatherElements copies numbers where Gather copies runs of memory: .03 ms for 49,152 logits, and .18.
    """
    every = new.add("Expand", places, new.add("Shape", product), name=f"{place}/places")
    return new.add("GatherElements", product, every, axis=-1, name=f"{place}/order")


def _renamed(place: str, names: Sequence[str]) -> str:
    """The name of a node for some parts of a fused layer: .../qkv_proj/MatMul becomes .../qk_proj/MatMul."""
    folder, _, operator = place.rpartition("/")
    kinds = [name.rpartition(".")[2].removesuffix("_proj") for name in names]
    return f"{folder.rpartition('/')[0]}/{''.join(kinds)}_proj/{operator}"


def _with_offsets(new: _Nodes, place: str, inputs: Any, product: Any, packed: _Packed) -> Any:
    """Add each block's offset times the sum of its inputs: exact where zeros are no integers, and fast.

    The offset counts from code 0, the product's zeros are in the middle: what lies between is added to the
    offset, which the runtime computes once, when it loads the model.
    """
    grid, blocks = packed.weight.grid, packed.weight.scales.shape[1]
    _, scales, _, offsets = packed.values
    middle = new.add("Mul", scales, new.constant(grid.middle, np.float32), name=f"{place}/middle")
    whole = new.add("Add", offsets, middle, name=f"{place}/from_middle")
    table = new.add("Transpose", whole, perm=[1, 0], name=f"{place}/offsets")
    split = new.add("Reshape", inputs, new.constant([0, 0, blocks, grid.block]), name=f"{place}/blocks")
    sums = new.add("ReduceSum", split, new.constant([-1]), keepdims=0, name=f"{place}/sums")
    offset = new.add("MatMul", sums, table, name=f"{place}/offset")
    return new.add("Add", product, offset, name=f"{place}/total")


def _places(graph: Any, stem: str, weight: QuantisedWeight) -> Any:
    """The graph's value that says where each row of `weight` is, int32; None where they are in order."""
    import onnx_ir as ir

    if weight.others is None:
        return None
    name = f"{stem}_places"
    if name not in graph.initializers:
        table = ir.tensor(weight.places.to(torch.int32).numpy(), name=name)
        graph.register_initializer(ir.Value(name=name, const_value=table))
    return graph.initializers[name]


def _replace_gather(graph: Any, node: Any, parts: Sequence[_Packed], places: Any) -> None:
    """Rows of the packed head (or of a separate table), made float as they are looked up.

    Where they are on two grids every token is looked up on both, and the right one is taken.
    """
    new, tokens = _Nodes(), node.inputs[1]
    if len(parts) == 1:
        _look_up(new, node.name, tokens, parts[0])
    else:
        frequent, others = parts
        count = len(frequent.weight.codes)
        row = new.add("Gather", places, tokens)
        is_other = new.add("GreaterOrEqual", row, new.constant([count], np.int32))
        inside = new.add("Min", row, new.constant([count - 1], np.int32))
        beyond = new.add("Sub", row, new.constant([count], np.int32))
        rest = new.add("Max", beyond, new.constant([0], np.int32))
        first = _look_up(new, node.name, inside, frequent)
        second = _look_up(new, node.name + _OTHERS, rest, others)
        new.add("Where", new.add("Unsqueeze", is_other, new.constant([-1])), second, first)
    _swap(graph, node, new.made, node.outputs[0])


def _look_up(new: _Nodes, place: str, tokens: Any, packed: _Packed) -> Any:
    """Rows of one grid, by nodes named after `place`."""
    weight, grid = packed.weight, packed.weight.grid
    if weight.offsets is not None:
        raise ModelError("an embedding on the Q4_1 grid cannot be looked up without loss", where="export")
    rows, wide = weight.codes.shape
    padded = weight.scales.shape[1] * grid.block  # type: ignore[operator]
    shape = new.constant([rows, padded * grid.bits // 8])
    found = new.add(
        "GatherBlockQuantized",
        new.add("Reshape", packed.values[0], shape, name=f"{place}/table"),
        tokens,
        *packed.values[1:3],
        bits=grid.bits,
        block_size=grid.block,
        gather_axis=0,
        quantize_axis=1,
        domain=_DOMAIN,
        name=f"{place}BlockQuantized",
    )
    if padded == wide:
        return found
    ends = [new.constant([at]) for at in (0, wide, -1)]
    return new.add("Slice", found, *ends, name=f"{place}/unpadded")


def _swap(graph: Any, old: Any, new: Sequence[Any], result: Any) -> None:
    """Put `new` where `old` was; the last one's output takes the place and the name of `result`."""
    import onnx_ir as ir

    last = new[-1].outputs[0]
    last.type, last.shape = result.type, result.shape
    ir.convenience.replace_nodes_and_values(graph, old, [old], list(new), [result], [last])


def _drop_unused(graph: Any) -> None:
    """What nothing reads any more: the float weights and the embedding's Transpose."""
    for node in reversed(list(graph)):
        if node.op_type == "Transpose" and not any(
            out.uses() or out.is_graph_output() for out in node.outputs
        ):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _save(model: Any, folder: Path) -> None:
    """Write beside and then replace: the float weights are still read from the old file meanwhile."""
    import onnx_ir as ir

    with tempfile.TemporaryDirectory(dir=folder, prefix=".placing.") as beside:
        ir.save(model, Path(beside) / GRAPH, external_data=DATA)
        for name in (GRAPH, DATA):
            shutil.move(Path(beside) / name, folder / name)


def _key(row: npt.NDArray[Any]) -> bytes:
    return np.ascontiguousarray(row).tobytes()
