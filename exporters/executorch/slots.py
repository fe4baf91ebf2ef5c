"""Attached adapters: one base for everyone, a small program for each person.

ExecuTorch 1.4 reads the weights that a program names and does not hold from a second file, a .ptd. The
base's weights lie in `base.ptd` once. A person's .pte holds the graph and the LoRA matrices, in int8 by rows
as XNNPACK takes them. It is made from `slots.pte` by writing the matrices over placeholders, in a moment and
without the library. XNNPACK's weights are named by the SHA-256 of their bytes, so the new ones get new names:
two people's programs in one process must not share packed weights by name.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from exporters.executorch.linear import AdaptedLinear, IntegerLinear, signed_codes
from exporters.quantise.grid import XNNPACK_INT8, QuantisedWeight
from toolkit.errors import AdapterError, BundleError
from toolkit.files import write_atomic

BASE = "base"  # names base.ptd
SPEC, TEMPLATE = "slots.json", "slots.pte"
_KEY = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class Slots:
    """Where adapters of up to `rank` fit: kinds of linear layers, such as q_proj.

    `shapes` is (out, in) by the module's name; it fills as the decoder is built.
    """

    rank: int
    targets: tuple[str, ...]
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def takes(self, name: str) -> bool:
        """Whether the layer `name` has a slot."""
        return name.rpartition(".")[2] in self.targets

    def adapted(self, base: IntegerLinear, name: str) -> AdaptedLinear:
        """`base` with placeholders of A and B."""
        self.shapes[name] = (base.codes.shape[0], base.codes.shape[1])
        return AdaptedLinear(base, *self.placeholders(name))

    def placeholders(self, name: str) -> tuple[QuantisedWeight, QuantisedWeight]:
        """A [rank, in] and B [out, rank] that no other layer has, of little effect."""
        out, wide = self.shapes[name]
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "little")
        generator = torch.Generator().manual_seed(seed)
        return _noise(self.rank, wide, generator), _noise(out, self.rank, generator)

    @property
    def keys(self) -> set[str]:
        """The names under which XNNPACK stores the placeholders."""
        return {key for name in self.shapes for each in self.placeholders(name) for key in (_constants(each))}


def write_slots(slots: Slots, folder: Path) -> None:
    """Note in `folder` what adapters fit; `write_person` reads it."""
    write_atomic(folder / SPEC, json.dumps(asdict(slots)) + "\n")


def read_slots(folder: Path) -> Slots:
    """The slots of the programs in `folder`. Raises BundleError if there is no usable note of them."""
    path = folder / SPEC
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shapes = {str(name): (int(out), int(wide)) for name, (out, wide) in found["shapes"].items()}
        return Slots(int(found["rank"]), tuple(map(str, found["targets"])), shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"does not say what adapters fit ({type(error).__name__})",
            where=str(path),
            mend="Export the base with attached adapters",
        ) from None


def write_person(folder: Path, changes: dict[str, Any], out: Path) -> None:
    """Write the .pte `out` of one person from what `build_executorch` left in `folder`.

    `changes` holds by module `a` [rank, in] and `b` [out, rank], scaled, as arrays; none makes the base's own
    program. A smaller rank than the slots' is filled up with zeros. Raises AdapterError if a change does not
    fit, BundleError if the folder is not complete.
    """
    slots, template = read_slots(folder), folder / TEMPLATE
    _check_fit(changes, slots)
    try:
        data = bytearray(template.read_bytes())
    except OSError as error:
        raise BundleError("cannot be read", where=str(template), mend="Export the base again") from error
    renamed: dict[bytes, bytes] = {}
    for name in slots.shapes:
        for old, new in zip(slots.placeholders(name), _matrices(changes.get(name), slots, name), strict=True):
            stored = zip(_constants(old).items(), _constants(new).items(), strict=True)
            for (old_key, old_bytes), (new_key, new_bytes) in stored:
                place = data.find(old_bytes)
                if place < 0 or len(old_bytes) != len(new_bytes):
                    raise BundleError("is not the program that its slots were noted for", where=str(template))
                data[place : place + len(new_bytes)] = new_bytes
                renamed[_digest(old_key)] = _digest(new_key)
    write_atomic(out, _KEY.sub(lambda found: renamed.get(found[0], found[0]), bytes(data)))


def _digest(key: str) -> bytes:
    return key.removeprefix("scale_").encode()


def _constants(weight: QuantisedWeight) -> dict[str, bytes]:
    """The bytes of the codes and scales by the names that XNNPACK's serialiser gives them."""
    codes = signed_codes(weight).numpy().tobytes()
    scales = weight.scales.contiguous().numpy().tobytes()
    return {
        hashlib.sha256(codes).hexdigest(): codes,
        f"scale_{hashlib.sha256(scales).hexdigest()}": scales,
    }


def _noise(rows: int, wide: int, generator: torch.Generator) -> QuantisedWeight:
    codes = torch.randint(0, 256, (rows, wide), generator=generator).to(torch.uint8)
    scales = (torch.rand(rows, 1, generator=generator) + 0.5) * 1e-5
    return QuantisedWeight(XNNPACK_INT8, codes, scales, torch.full((rows, 1), 128, dtype=torch.uint8))


def _matrices(change: Any, slots: Slots, name: str) -> tuple[QuantisedWeight, QuantisedWeight]:
    out, wide = slots.shapes[name]
    a, b = torch.zeros(slots.rank, wide), torch.zeros(out, slots.rank)
    if change is not None:
        rank = change.a.shape[0]
        a[:rank], b[:, :rank] = torch.from_numpy(change.a.copy()), torch.from_numpy(change.b.copy())
    return _rounded(a), _rounded(b)


def _rounded(matrix: torch.Tensor) -> QuantisedWeight:
    scales = (matrix.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
    codes = ((matrix / scales).round() + 128).to(torch.uint8)
    return QuantisedWeight(XNNPACK_INT8, codes, scales, torch.full_like(scales, 128).to(torch.uint8))


def _check_fit(changes: dict[str, Any], slots: Slots) -> None:
    for name, change in changes.items():
        where = f"{name}: A {list(change.a.shape)}, B {list(change.b.shape)}"
        if name not in slots.shapes:
            raise AdapterError(
                "changes a layer that has no slot",
                where=where,
                mend=f"Slots are at {', '.join(slots.targets)}",
            )
        out, wide = slots.shapes[name]
        if change.a.shape[1] != wide or change.b.shape[0] != out:
            raise AdapterError(f"does not fit a layer of {wide} to {out}", where=where)
        if change.a.shape[0] > slots.rank:
            raise AdapterError(
                f"has a higher rank than the slots' {slots.rank}",
                where=where,
                mend="Export the base with slots of that rank",
            )
