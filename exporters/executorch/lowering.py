"""From a decoder in torch to an ExecuTorch program for XNNPACK."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from exporters.executorch.decoder import Decoder
from exporters.executorch.pte_file import share_equal_bytes
from exporters.executorch.slots import BASE, Slots
from toolkit.errors import ModelError
from toolkit.native_output import natively_hushed
from toolkit.progress import SILENT, Progress, hushed

Metadata = dict[str, Any]
_CHECKED = 8  # positions


def write_program(
    decoder: Decoder,
    metadata: Metadata,
    path: Path,
    *,
    fast: bool = True,
    slots: Slots | None = None,
    progress: Progress = SILENT,
) -> bool:
    """Write `decoder` as a .pte with `metadata` as constant methods; return whether the fast way was taken.

    The fast way lowers each kind of segment once (`templates`): a minute instead of a quarter of an hour for
    30 layers. Where the library is not the one that it was written for, the ordinary way is taken. With
    `slots`, which only the fast way can make, the base's weights go to a .ptd beside the program.
    Raises ModelError if slots cannot be made.
    """
    from exporters.executorch.templates import UnsuitedError, lowered_segments

    if fast:
        try:
            with progress.step("Lowering", total=len(decoder.segments), unit="layers") as advance:
                stitched = decoder.with_segments(lowered_segments(decoder, advance, slots))
            with progress.step("Writing model.pte"):
                outside = slots is not None
                _save(_to_executorch(stitched, metadata, delegate=False, outside=outside), path)
                share_equal_bytes(path)
                _check_output(decoder, path, metadata.get("get_bos_id", 1))
        except (UnsuitedError, ValueError, struct.error) as reason:
            if slots is not None:
                raise ModelError(
                    f"attached adapters cannot be made with this version of ExecuTorch ({reason})",
                    where="export",
                    mend="Export it merged",
                ) from reason
            warnings.warn(f"lowering the whole model at once, which is slow: {reason}", stacklevel=2)
        else:
            return True
    with progress.step("Lowering the whole model at once"):
        _save(_to_executorch(decoder, metadata, delegate=True), path)
        # Left as it is if another version lays files out differently.
        with suppress(ValueError, struct.error):
            share_equal_bytes(path)
    return False


def export_program(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], longest: int) -> Any:
    """`module` as an ExportedProgram; dimension 1 of an input goes from 1 to `longest` where it is not 1."""
    length = torch.export.Dim("length", min=1, max=longest)
    shapes = tuple({1: length} if each.dim() > 1 and each.shape[1] > 1 else None for each in inputs)
    with torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def lower_program(program: Any, metadata: Metadata | None = None, *, delegate: bool = True) -> Any:
    """`program` in the edge dialect, with everything that XNNPACK takes in delegates if `delegate`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    with torch.no_grad():
        return to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()] if delegate else [],
            constant_methods=metadata,
            # The custom attention operators are in no dialect that the validity check knows.
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )


def _to_executorch(decoder: Decoder, metadata: Metadata, *, delegate: bool, outside: bool = False) -> Any:
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

    register_operators()
    example = (torch.tensor([[0, 0, 0]]), torch.tensor([0]))
    with quiet():
        program = export_program(decoder, example, decoder.context_length - 1)
        return lower_program(program, metadata, delegate=delegate).to_executorch(
            ExecutorchBackendConfig(
                external_constants=(lambda node: BASE) if outside else False,
                memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
                sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
            )
        )


def register_operators() -> None:
    """The attention and embedding operators, for tracing and for running a program in this process."""
    with hushed(), natively_hushed():
        import executorch.extension.llm.custom_ops.custom_ops
        import executorch.kernels.quantized  # noqa: F401


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings about its own use of torch."""
    with warnings.catch_warnings(), hushed():
        warnings.simplefilter("ignore")
        yield


def _save(program: Any, path: Path) -> None:
    with path.open("wb") as file:
        program.write_to_file(file)
    program.write_tensor_data_to_file(str(path.parent))


def _check_output(decoder: Decoder, path: Path, first: int) -> None:
    """UnsuitedError unless the program at `path` answers as `decoder` does in torch.

    Both read what `decoder` itself says after the token `first`: on text that no model would write, the
    rounding of activations alone can make any two integer builds differ. So can a single position; the median
    of a few is compared.
    """
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    from exporters.executorch.templates import UnsuitedError

    base = path.with_name(f"{BASE}.ptd")
    likeness, token = [], first
    with torch.no_grad(), natively_hushed():
        program = _load_for_executorch(str(path), str(base) if base.is_file() else None)
        for position in range(min(_CHECKED, decoder.context_length - 1)):
            inputs = [torch.tensor([[token]]), torch.tensor([position])]
            expected = decoder(*inputs)[0]
            found = program.run_method("forward", inputs)[0][0]
            likeness.append(torch.corrcoef(torch.stack((expected, found)))[0, 1])
            token = int(expected.argmax())
    median = torch.stack(likeness).median().item()
    if not median > 0.95:
        raise UnsuitedError(f"its logits correlate only by {median:.3f} with torch's")
