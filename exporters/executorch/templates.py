"""Lowering each kind of segment once and reusing the result for all segments of its kind.

Why: in ExecuTorch 1.4 every pass runs the whole graph through fake tensors with symbolic shapes, about 12 ms
a node and pass, and some of them once per delegate: 17 to 22 minutes of CPU for 30 layers. Segments of a kind
have the same graph, so XNNPACK's passes run on one of them; for the others only its serialiser runs, on the
passed graph with their weights. The whole decoder is then exported with finished delegates in it.

This relies on what is inside the library, seen in version 1.4: `XnnpackBackend.preprocess` runs its passes
through `xnnpack_preprocess.XNNPACKPassManager` and then reads constants from the state of the program alone;
tracing asks a LoweredBackendModule for `original_module.module()` only to learn the shapes of its outputs.
Everything else is public. Another version, or anything unexpected, raises UnsuitedError, and the caller takes
the library's ordinary way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from exporters.executorch.decoder import Decoder
from exporters.executorch.slots import BASE, Slots

WRITTEN_FOR = "1.4."

# Passes of XNNPACK for images, convolutions and the like. They find nothing here, and take half the time.
_IDLE_PASSES = {
    "Conv1dUnsqueezePass",
    "ConvertToSDPAPass",
    "ConvertToUpsampleBilinear2d",
    "DecomposeBatchNorm",
    "FuseBatchNormPass",
    "InsertPadQDQPass",
    "PReLUReshapePass",
}


class UnsuitedError(Exception):
    """The library is not as this module expects it, or a segment is none that it can reuse."""


def lowered_segments(
    decoder: Decoder, advance: Callable[[float], None], slots: Slots | None = None
) -> nn.ModuleList:
    """The segments of `decoder`, each as one XNNPACK delegate; `advance` is called for each.

    With `slots` all constants but theirs go to the file of the base. Raises UnsuitedError.
    """
    from executorch.version import __version__

    if not __version__.startswith(WRITTEN_FOR):
        raise UnsuitedError(f"executorch {__version__} is not {WRITTEN_FOR}x")
    templates: dict[str, _Template] = {}
    found = []
    for segment, inputs in zip(decoder.segments, decoder.segment_inputs(), strict=True):
        kind = _kind(segment)
        try:
            if kind not in templates:
                templates[kind] = _Template(segment, inputs, decoder.context_length - 1)
            found.append(templates[kind].fill(segment, slots))
        except (AttributeError, TypeError, KeyError, ValueError, IndexError, AssertionError) as error:
            raise UnsuitedError(f"{type(error).__name__}: {error}") from error
        advance(1)
    return nn.ModuleList(found)


def _kind(segment: nn.Module) -> str:
    """Equal for segments whose graphs are equal: the same modules, with tensors of the same form."""
    tensors = [(name, tuple(each.shape), each.dtype) for name, each in segment.state_dict().items()]
    return f"{segment} {tensors}"


class _Template:
    """One lowered segment, its graph as XNNPACK's passes left it, and how to call it."""

    def __init__(self, segment: nn.Module, inputs: tuple[torch.Tensor, ...], longest: int) -> None:
        from executorch.exir.delegate import executorch_call_delegate

        from exporters.executorch.lowering import export_program, lower_program, quiet

        passed: list[Any] = []
        with quiet(), _passes(passed.append):
            program = export_program(segment, inputs, longest)
            edge = lower_program(program).exported_program()
        calls = [node for node in edge.graph.nodes if node.target is executorch_call_delegate]
        others = [
            node
            for node in edge.graph.nodes
            if node.op == "call_function" and node not in calls and "getitem" not in node.name
        ]
        if len(calls) != 1 or len(passed) != 1 or others:
            raise UnsuitedError(
                f"{len(calls)} delegates, and outside of them {others}, where one was expected"
            )
        self.passed = passed[0]
        self.lowered = getattr(edge.graph_module, calls[0].args[0].target)
        given, buffers = list(edge.graph_signature.user_inputs), edge.graph_signature.inputs_to_buffers
        # Where each of the delegate's arguments comes from: the segment's input, or a tensor of its own.
        self.arguments: list[int | str] = [
            given.index(each.name) if each.name in given else buffers[each.name] for each in calls[0].args[1:]
        ]
        self.outputs = [each.args[1] for each in edge.graph.output_node().args[0]]
        self._check_constants(segment)

    def _check_constants(self, segment: nn.Module) -> None:
        """The passes must have left every weight as it was, or another segment's would not fit there."""
        own = segment.state_dict()
        for name, value in self.passed.state_dict.items():
            if name not in own or not torch.equal(value, own[name]):
                raise UnsuitedError(f"the passes changed {name}")

    def fill(self, segment: nn.Module, slots: Slots | None) -> nn.Module:
        """`segment`, which is of this kind, as a lowered module."""
        from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
        from executorch.exir.lowered_backend_module import LoweredBackendModule

        from exporters.executorch.lowering import quiet

        own = segment.state_dict()
        for name in list(self.passed.state_dict):
            self.passed.state_dict[name] = own[name]
        with quiet(), _passes(None):
            result = XnnpackBackend.preprocess(self.passed, self.lowered.compile_specs)
        lowered = LoweredBackendModule(
            _Shapes(self.lowered.original_module),
            self.lowered.backend_id,
            result.processed_bytes,
            self.lowered.compile_specs,
            result.data_store_output if slots is None else _outside(result.data_store_output, slots),
        )
        lowered.meta = {"debug_handle_map": result.debug_handle_map}
        return _Segment(lowered, self.arguments, self.outputs, own)


class _Segment(nn.Module):
    """A lowered segment that is called as the segment was."""

    def __init__(
        self, lowered: nn.Module, arguments: list[int | str], outputs: list[int], own: dict[str, torch.Tensor]
    ) -> None:
        super().__init__()
        self.lowered, self.outputs = lowered, outputs
        self.arguments: list[int | str] = []
        for argument in arguments:
            if isinstance(argument, str):
                self.register_buffer(argument.replace(".", "_"), own[argument])
                argument = argument.replace(".", "_")
            self.arguments.append(argument)

    def forward(self, *inputs: torch.Tensor) -> Any:
        from executorch.exir.delegate import executorch_call_delegate

        arguments = [inputs[a] if isinstance(a, int) else getattr(self, a) for a in self.arguments]
        found = executorch_call_delegate(self.lowered, *arguments)
        return found[0] if len(self.outputs) == 1 else tuple(found[i] for i in self.outputs)


class _Shapes:
    """Stands in for a lowered module's original program: tracing needs no more than its outputs' shapes.

    The real one would run all its nodes through fake tensors each time that a pass meets the delegate.
    """

    def __init__(self, original: Any) -> None:
        self.graph = original.graph
        self.shapes = [
            [size if isinstance(size, int) else None for size in node.meta["val"].shape]
            for node in original.graph.output_node().args[0]
        ]

    def module(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        return self._run

    def _run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        length = inputs[0].shape[1]
        return tuple(
            inputs[0].new_empty([length if size is None else size for size in shape]) for shape in self.shapes
        )


def _outside(store: Any, slots: Slots) -> Any:
    """The same constants, with those of the base in a file of their own."""
    from executorch.exir._serialize._named_data_store import NamedDataStoreOutput

    own = {key: entry for key, entry in store.pte_data.items() if key in slots.keys}
    base = {key: entry for key, entry in store.pte_data.items() if key not in slots.keys}
    return NamedDataStoreOutput(store.buffers, own, {BASE: base})


@contextmanager
def _passes(keep: Callable[[Any], None] | None) -> Iterator[None]:
    """Hand every program to `keep` after XNNPACK's passes; None: leave the passes out."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    ordinary = xnnpack_preprocess.XNNPACKPassManager

    class Manager(ordinary):  # type: ignore[misc, valid-type]
        def transform(self) -> Any:
            if keep is None:
                return self.exported_program
            chosen = [each for each in self.passes if each.__name__ not in _IDLE_PASSES]
            self.passes: list[Any] = chosen
            program = super().transform()
            keep(program)
            return program

    xnnpack_preprocess.XNNPACKPassManager = Manager
    try:
        yield
    finally:
        xnnpack_preprocess.XNNPACKPassManager = ordinary
