"""Torch's raw ONNX graph made small, and its linear layers easy to find.

Weights keep transformers' names. A linear layer is a MatMul, called by its module's name, whose second input
is the weight stored transposed, [in, out]; a bias is an Add behind it. An embedding tied to the head is
looked up in a Transpose of the head's weight, as in the builder's graphs.
"""

from typing import Any

import numpy as np

_LINEAR = "/MatMul"  # a linear layer's node is called by its module's name and this
_WRAPPED = "model."  # the part of the wrapper, in which the model stood, of a weight's name


def tidy(program: Any) -> None:
    """Fold constants, fuse norms and rotary embeddings, and drop what is not needed to compute."""
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir
    from onnxscript.rewriter import onnx_fusions

    common.InlinePass()(program)
    # Weights stay as they are: they are transposed by `name_linears`, under their own names.
    fold_constants_ir(program, onnx_shape_inference=True, should_fold=_not_transposed)
    _drop_multiplications_by_one(program)
    common.RemoveUnusedNodesPass()(program)
    onnx_fusions.fuse(program)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(program)
    common.DeduplicateInitializersPass()(program)
    common.CommonSubexpressionEliminationPass()(program)
    common.RemoveUnusedNodesPass()(program)
    common.RemoveUnusedFunctionsPass()(program)
    common.RemoveUnusedOpsetsPass()(program)
    common.ClearMetadataAndDocStringPass()(program)  # stack traces with this machine's paths


def name_linears(program: Any, model: Any) -> None:
    """Give weights transformers' names, store them as [in, out], and name each MatMul by its module."""
    for value in list(program.graph.initializers.values()):
        if value.name.startswith(_WRAPPED):
            value.name = value.name.removeprefix(_WRAPPED)
    modules = {id(module): name for name, module in model.named_modules()}
    head = modules.get(id(model.get_output_embeddings()))
    for node in list(program.graph):
        if node.op_type == "Gemm":
            node = _gemm_as_matmul(program, node)
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        source = weight.producer() if weight is not None else None
        if source is not None and source.op_type == "Transpose":
            weight = source.inputs[0]
        if weight is None or not weight.is_initializer() or not weight.name.endswith(".weight"):
            continue
        module = weight.name.removesuffix(".weight")
        if source is not None:
            tied = any(user.op_type != "Transpose" for user, _ in weight.uses())
            module = head if tied and head else module
            _store_transposed(program, weight, f"{module}.weight")
        node.name = f"{module}{_LINEAR}"


def _not_transposed(node: Any) -> bool | None:
    return False if node.op_type == "Transpose" else None


def _drop_multiplications_by_one(program: Any) -> None:
    """The unused scale of rotary tables, which hides them from the fusion."""
    import onnx_ir as ir

    for node in list(program.graph):
        if node.op_type != "Mul":
            continue
        for kept, factor in (node.inputs, node.inputs[::-1]):
            value = ir.convenience.get_const_tensor(factor)
            if value is not None and value.size == 1 and not value.shape.dims and value.numpy() == 1:
                node.outputs[0].replace_all_uses_with(kept, replace_graph_outputs=True)
                break


def _store_transposed(program: Any, weight: Any, name: str) -> None:
    """Turn a weight that is read through Transposes; what reads it as it was gets a Transpose instead."""
    import onnx_ir as ir

    stored = weight.const_value
    turned = ir.Value(name=name, shape=ir.Shape(reversed(stored.shape.dims)), type=weight.type)
    turned.const_value = ir.LazyTensor(  # transposed when it is written, one weight at a time
        lambda: ir.tensor(np.ascontiguousarray(stored.numpy().T)),
        dtype=stored.dtype,
        shape=turned.shape,
        name=name,
    )
    users = list(weight.uses())
    for user, _ in users:
        if user.op_type == "Transpose":
            user.outputs[0].replace_all_uses_with(turned)
            program.graph.remove(user, safe=True)
    if others := [(user, place) for user, place in users if user.op_type != "Transpose"]:
        back = ir.node("Transpose", [turned], {"perm": [1, 0]})
        program.graph.insert_before(program.graph[0], back)
        for user, place in others:
            user.replace_input_with(place, back.outputs[0])
    del program.graph.initializers[weight.name]
    program.graph.register_initializer(turned)


def _gemm_as_matmul(program: Any, node: Any) -> Any:
    """What a linear layer of two-dimensional input becomes, written as the others; the MatMul."""
    import onnx_ir as ir

    rows, weight, *bias = node.inputs
    made = []
    if "transB" in node.attributes and node.attributes["transB"].value:
        made.append(ir.node("Transpose", [weight], {"perm": [1, 0]}))
        weight = made[-1].outputs[0]
    product = ir.node("MatMul", [rows, weight])
    made.append(product)
    if bias and bias[0] is not None:
        made.append(ir.node("Add", [product.outputs[0], bias[0]]))
    program.graph.insert_before(node, made)
    node.outputs[0].replace_all_uses_with(made[-1].outputs[0], replace_graph_outputs=True)
    program.graph.remove(node, safe=True)
    return product
