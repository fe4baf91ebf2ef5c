"""A whole model onto a grid, layer by layer, each on the inputs that the layers before it really give.

GPTQ's order (arXiv 2210.17323, section 4): the windows' hidden states are carried through the decoder one
layer at a time; within a layer, linears that share an input are quantised together, and those after them see
the outputs of quantised ones. Beside them go the float model's hidden states, so that a layer can make good a
part of what the layers before it lost: with inputs F in float and X as they are, the weights that bring X
closest to the float outputs are W F^T X (X^T X)^-1 (as in GPTAQ, arXiv 2504.02692, section 3), and what is
quantised lies between them and W. Only one layer's inputs are in memory at a time.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import torch

from exporters.quantise.grid import Grid, QuantisedWeight, Scheme, rows_besides
from exporters.quantise.solve import DAMPING, quantise
from exporters.quantise.temporary import hooked, restored
from toolkit.errors import EdgePLMError, ModelError
from toolkit.progress import SILENT, Progress

WINDOW = 256  # tokens
WINDOWS = 64
_BATCH = 8
# How far towards the weights that make good earlier layers' losses; all the way overfits to the windows.
MAKE_GOOD = 0.5


@dataclass(frozen=True)
class Windows:
    """Token ids [count, length] to calibrate on; `own` of the windows are people's own examples."""

    ids: torch.Tensor
    own: int

    @property
    def sha256(self) -> str:
        """Which windows these are, without saying what is in them."""
        return hashlib.sha256(self.ids.to(torch.int64).numpy().tobytes()).hexdigest()


def calibration_windows(
    neutral: Sequence[int],
    own: Sequence[Sequence[int]] = (),
    written: Sequence[Sequence[int]] = (),
    *,
    count: int = WINDOWS,
    length: int = WINDOW,
    seed: int = 0,
) -> Windows:
    """Windows to calibrate on: half the people's own examples, half neutral text.

    `own` are examples as the model sees them, prompt and answer; they are put one after the other in random
    order. Where there are too few of them the neutral text fills up, and the other way round. `written`,
    windows that the model wrote, take turns with the neutral text. Raises EdgePLMError if all together fill
    no window.
    """
    examples = list(own)
    random.Random(seed).shuffle(examples)  # noqa: S311 - an order
    mine = _cut([token for example in examples for token in example], length)
    others = _in_turn(_cut(list(neutral), length), [list(window[:length]) for window in written])
    mine = mine[: max(count // 2, count - len(others))]
    chosen = [*mine, *others[: count - len(mine)]]
    if not chosen:
        raise EdgePLMError(
            f"the texts to calibrate on do not fill a window of {length} tokens",
            where="calibration",
            mend="Give more text",
        )
    return Windows(torch.tensor(chosen), len(mine))


def _in_turn(first: list[list[int]], second: list[list[int]]) -> list[list[int]]:
    """One of each, and then the rest of the longer list."""
    pairs = zip_longest(first, second)
    return [each for pair in pairs for each in pair if each is not None]


def _cut(tokens: Sequence[int], length: int) -> list[list[int]]:
    return [list(tokens[at : at + length]) for at in range(0, len(tokens) - length + 1, length)]


@torch.no_grad()
def quantise_model(
    model: Any,
    scheme: Scheme,
    windows: torch.Tensor | None,
    progress: Progress = SILENT,
    *,
    frequent: torch.Tensor | None = None,
) -> dict[str, QuantisedWeight]:
    """The linear layers of a float causal LM, its head among them, on the grids of `scheme`, by module name.

    The model is left as it was. `windows` [count, length] are token ids to calibrate on; None rounds each
    weight by itself. The head and the embedding are rounded in both cases; `frequent` are the ids of the
    tokens that they have on the grid `fine`.
    """
    with restored(model):
        found = _quantise_ends(model, scheme, frequent)
        if scheme.linear is not None:
            found |= _quantise_layers(model, scheme, windows, found, progress)
    return found


def _quantise_layers(
    model: Any,
    scheme: Scheme,
    windows: torch.Tensor | None,
    ends: Mapping[str, QuantisedWeight],
    progress: Progress,
) -> dict[str, QuantisedWeight]:
    """Every linear of the decoder's layers; `ends` are the head and embedding that they will meet."""
    found: dict[str, QuantisedWeight] = {}
    decoder = _layers(model)
    grids = [
        {name: grid for name in _linears(layer) if (grid := scheme.grid(name, index, len(decoder)))}
        for index, layer in enumerate(decoder.values())
    ]
    with progress.step("Quantising", total=len(decoder), unit="layers") as advance:
        if windows is None:
            for (prefix, layer), mine in zip(decoder.items(), grids, strict=True):
                linears = _linears(layer)
                for name, grid in mine.items():
                    found[f"{prefix}.{name}"] = quantise(linears[name].weight.data, grid)
                advance(1)
            return found
        float_hidden, _ = _first_inputs(model, windows)
        apply_weights(model, ends)
        hidden, arguments = _first_inputs(model, windows)
        for (prefix, layer), extra, mine in zip(decoder.items(), arguments, grids, strict=True):
            groups, float_hidden = _inputs_and_outputs(layer, extra, float_hidden)
            weights, hidden = _quantise_layer(layer, extra, hidden, groups, mine)
            found |= {f"{prefix}.{name}": weight for name, weight in weights.items()}
            advance(1)
    return found


def apply_weights(model: Any, weights: Mapping[str, QuantisedWeight]) -> None:
    """Give `model` the values that its quantised weights stand for, in place, a tied embedding with them."""
    modules = dict(model.named_modules())
    for name, weight in weights.items():
        modules[name].weight.data = weight.dequantise()  # a tied embedding is the same parameter


class _Reached(Exception):  # noqa: N818 - not an error: the input that was wanted is there
    pass


@dataclass
class _Group:
    """Linears of a layer by name that share an input, and that input [..., in] in the float model."""

    linears: dict[str, torch.nn.Linear]
    inputs: torch.Tensor


def _inputs_and_outputs(
    layer: Any, extra: Mapping[str, Any], hidden: torch.Tensor
) -> tuple[list[_Group], torch.Tensor]:
    """A layer's groups of linears in the order of their use, and its outputs.

    `hidden` [windows, length, hidden] goes in, with the layer's other arguments, `extra`.
    """
    seen: list[_Group] = []

    def note(name: str, linear: torch.nn.Linear) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            for group in seen:
                if group.inputs is inputs[0]:
                    group.linears[name] = linear
                    return
            seen.append(_Group({name: linear}, inputs[0]))

        return linear.register_forward_pre_hook(hook)

    with hooked(note(*pair) for pair in _linears(layer).items()):
        outputs = _first(layer(hidden, **extra))
    return seen, outputs


def _quantise_layer(
    layer: Any,
    extra: Mapping[str, Any],
    hidden: torch.Tensor,
    groups: list[_Group],
    grids: Mapping[str, Grid],
) -> tuple[dict[str, QuantisedWeight], torch.Tensor]:
    """The linears' weights by name, and the layer's outputs with them.

    The layer runs once: where it comes to a group's first linear, the group is quantised on what that is
    about to be given. `groups` are emptied: what they hold takes room.
    """
    found: dict[str, QuantisedWeight] = {}

    def take(group: _Group) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found.update(_quantise_group(group, inputs[0], grids))

        return next(iter(group.linears.values())).register_forward_pre_hook(hook)

    with hooked([take(group) for group in groups]):
        outputs = _first(layer(hidden, **extra))
    groups.clear()
    return found, outputs


def _quantise_group(
    group: _Group, given: torch.Tensor, grids: Mapping[str, Grid]
) -> dict[str, QuantisedWeight]:
    """Quantise the linears of a group, in place too, on what they are `given`."""
    inputs, reference = (each.reshape(-1, each.shape[-1]) for each in (given, group.inputs))
    hessian = inputs.T @ inputs
    linears = group.linears
    whole = torch.cat([linear.weight.data for linear in linears.values()])
    whole = whole + MAKE_GOOD * (_closest(whole, hessian, reference.T @ inputs) - whole)
    parts = dict(zip(linears, whole.split([each.out_features for each in linears.values()]), strict=True))
    found: dict[str, QuantisedWeight] = {}
    for grid in dict.fromkeys(grids[name] for name in linears):  # together, which is faster
        alike = {name: part for name, part in parts.items() if grids[name] == grid}
        found |= _taken_apart(quantise(torch.cat(list(alike.values())), grid, hessian), alike)
    for name, linear in linears.items():
        linear.weight.data = found[name].dequantise()
    return found


def _taken_apart(weight: QuantisedWeight, parts: Mapping[str, torch.Tensor]) -> dict[str, QuantisedWeight]:
    """`weight`, of `parts` one below the other, as one weight for each."""
    rows = [len(part) for part in parts.values()]
    pieces = zip(*(each.split(rows) for each in (weight.codes, weight.scales, weight.zeros)), strict=True)
    return {
        name: QuantisedWeight(weight.grid, *(piece.clone() for piece in three))
        for name, three in zip(parts, pieces, strict=True)
    }


def _closest(weight: torch.Tensor, hessian: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
    """The weights that bring the inputs closest to the float outputs: W C H^-1, both damped."""
    damping = DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    return torch.linalg.solve(hessian + damping, (weight @ (cross + damping)).T).T


def _first_inputs(model: Any, windows: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Hidden states before the first layer [windows, length, hidden], and every layer's other arguments."""
    extra: list[dict[str, Any]] = []
    before: list[torch.Tensor] = []

    def note(module: Any, inputs: tuple[torch.Tensor, ...], arguments: dict[str, Any]) -> None:
        extra.append(arguments)

    def stop(module: Any, inputs: tuple[torch.Tensor, ...], arguments: dict[str, Any]) -> None:
        before.append(inputs[0])
        raise _Reached

    layers = list(_layers(model).values())
    with hooked(layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers):
        model(input_ids=windows[:1], use_cache=False)
    with hooked([layers[0].register_forward_pre_hook(stop, with_kwargs=True)]):
        for batch in windows.split(_BATCH):
            with suppress(_Reached):
                model(input_ids=batch, use_cache=False)
    return torch.cat(before), extra


def _quantise_ends(model: Any, scheme: Scheme, frequent: torch.Tensor | None) -> dict[str, QuantisedWeight]:
    """The head, and the embedding where it has weights of its own, rounded.

    A Hessian would serve one of a tied pair at the other's cost.
    """
    if scheme.head is None:
        return {}
    rounded = partial(_rounded, grid=scheme.head, fine=scheme.fine or scheme.head, frequent=frequent)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    found = {names[id(head)]: rounded(head.weight.data)}
    if embedding.weight is not head.weight:
        found[names[id(embedding)]] = rounded(embedding.weight.data)
    return found


def _rounded(weight: torch.Tensor, grid: Grid, fine: Grid, frequent: torch.Tensor | None) -> QuantisedWeight:
    """A row for each token on `grid`, those of the `frequent` ones on `fine`."""
    if frequent is None or not len(frequent):
        return quantise(weight, grid)
    others = quantise(weight[rows_besides(frequent, len(weight))], grid)
    return replace(quantise(weight[frequent], fine), rows=frequent, others=others)


def _layers(model: Any) -> dict[str, torch.nn.Module]:
    """The decoder's layers by their names in the model; ModelError if there are none with linears."""
    count = model.config.get_text_config().num_hidden_layers
    for prefix, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and _linears(module):
            return {f"{prefix}.{index}": layer for index, layer in enumerate(module)}
    raise ModelError(
        f"the architecture {type(model).__name__} has no list of layers with linear layers in them",
        where="export",
        mend="Export it with --precision fp32",
    )


def _linears(layer: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)}


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
