"""Storing equal bytes of a .pte once.

XNNPACK's weights and the tensors of ExecuTorch's own kernels lie in different segments of the file, so that
an output head that is tied to the embedding is written twice. A segment is no more than a range of the file,
and ranges may overlap: the head's segment is pointed at the embedding, inside the segment of constants.
Layout: schema/program.fbs and the extended header of ExecuTorch 1.4 (`executorch.exir._serialize`).
"""

import mmap
import struct
from pathlib import Path

# Magic, header length, size of the flatbuffer with this header, where segments begin, their size together.
_HEADER, _HEADER_AT = struct.Struct("<4sIQQQ"), 8
_MAGIC = b"eh00"
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# Numbers of fields in program.fbs: of Program, and of the tables below it.
_SEGMENTS, _CONSTANTS, _NAMED = 4, 5, 7
_OFFSET, _SIZE = 0, 1
_SEGMENT_INDEX, _OFFSETS, _NAMED_SEGMENT = 0, 1, 1
_WORTHWHILE = 4096


def share_equal_bytes(path: Path) -> int:
    """Drop weights from the .pte at `path` that lie among its constants too; return the bytes saved.

    Raises ValueError if the file is not laid out as this module knows it; the file is then as it was.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        magic, length, program_size, base, total = _HEADER.unpack_from(data, _HEADER_AT)
        if magic != _MAGIC or length != _HEADER.size or base + total != len(data):
            raise ValueError(f"{path} has no extended header of ExecuTorch 1.4")
        head = bytearray(data[:program_size])
        program = _Table(head, 0).child()
        segments = program.tables(_SEGMENTS)
        ranges = [(each.number(_OFFSET, _U64), each.number(_SIZE, _U64)) for each in segments]
        twins = _twins(program, ranges, data, base)
        if not twins:
            return 0
        # What is left out goes from a segment's start to the next one's, which keeps every alignment.
        starts = [*sorted(offset for offset, _ in ranges), total]
        gaps = sorted((ranges[i][0], starts[starts.index(ranges[i][0]) + 1]) for i in twins)
        for i, (offset, _) in enumerate(ranges):
            shift = sum(end - start for start, end in gaps if start < offset)
            segments[i].set_number(_OFFSET, twins.get(i, offset - shift))
        saved = sum(end - start for start, end in gaps)
        _HEADER.pack_into(head, _HEADER_AT, magic, length, program_size, base, total - saved)
        data[:program_size] = bytes(head)
        for (start, end), (following, _) in zip(gaps, [*gaps[1:], (total, total)], strict=True):
            before = sum(stop - begin for begin, stop in gaps if begin < start)
            data.move(base + start - before, base + end, following - end)
        data.flush()
    with path.open("r+b") as file:
        file.truncate(base + total - saved)
    return saved


class _Table:
    """A table of a flatbuffer, read and patched in place."""

    def __init__(self, data: bytearray, position: int) -> None:
        self.data, self.position = data, position

    def child(self, position: int | None = None) -> "_Table":
        """The table that the offset at `position` leads to."""
        start = self.position if position is None else position
        return _Table(self.data, start + _U32.unpack_from(self.data, start)[0])

    def field(self, number: int) -> int:
        """Where field `number` lies, 0 if it has its default."""
        vtable = self.position - struct.unpack_from("<i", self.data, self.position)[0]
        (length,) = struct.unpack_from("<H", self.data, vtable)
        if 4 + 2 * number >= length:
            return 0
        (offset,) = struct.unpack_from("<H", self.data, vtable + 4 + 2 * number)
        return self.position + offset if offset else 0

    def number(self, number: int, form: struct.Struct) -> int:
        place = self.field(number)
        return int(form.unpack_from(self.data, place)[0]) if place else 0

    def set_number(self, number: int, value: int) -> None:
        place = self.field(number)
        if place:
            _U64.pack_into(self.data, place, value)
        elif value:
            raise ValueError("a field that the file leaves out cannot be set")

    def tables(self, number: int) -> list["_Table"]:
        return [self.child(place) for place in self._places(number, _U32)]

    def numbers(self, number: int) -> list[int]:
        return [_U64.unpack_from(self.data, place)[0] for place in self._places(number, _U64)]

    def _places(self, number: int, form: struct.Struct) -> range:
        vector = self.child(self.field(number)).position if self.field(number) else 0
        count = _U32.unpack_from(self.data, vector)[0] if vector else 0
        return range(vector + 4, vector + 4 + count * form.size, form.size)


def _twins(program: _Table, ranges: list[tuple[int, int]], data: mmap.mmap, base: int) -> dict[int, int]:
    """Segments of named data whose bytes lie among the constants, and where."""
    if not program.field(_CONSTANTS):
        return {}
    constants = program.child(program.field(_CONSTANTS))
    begin, size = ranges[constants.number(_SEGMENT_INDEX, _U32)]
    offsets = sorted(set(constants.numbers(_OFFSETS)))
    found = {}
    for i in {each.number(_NAMED_SEGMENT, _U32) for each in program.tables(_NAMED)}:
        start, length = ranges[i]
        if length < _WORTHWHILE or begin <= start < begin + size:
            continue
        with memoryview(data) as whole:
            wanted = whole[base + start : base + start + length]
            for offset in offsets:
                if offset + length <= size and whole[base + begin + offset :][:length] == wanted:
                    found[i] = begin + offset
                    break
            wanted.release()
    return found
