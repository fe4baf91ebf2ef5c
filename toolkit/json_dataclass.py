"""Reading JSON into dataclasses, field by field, so that a damaged file is named by the field that is wrong.

Standard library only: bundles are read on devices too.
"""

import dataclasses
import types
import typing
from typing import Any

from toolkit.errors import EdgePLMError


def read_dataclass(
    kind: Any, value: Any, *, where: str, mend: str, error: type[EdgePLMError] = EdgePLMError
) -> Any:
    """`value` (parsed JSON) as the dataclass `kind`, with its nested dataclasses, lists, dicts and optionals.

    Keys that `kind` does not know are ignored, so that a later minor addition does not break this reader.
    Raises `error` with `where`, the dotted name of the field, what was found and what was expected.
    """
    return _Reader(where, mend, error).read(kind, value, "")


@dataclasses.dataclass(frozen=True)
class _Reader:
    where: str
    mend: str
    error: type[EdgePLMError]

    def read(self, kind: Any, value: Any, name: str) -> Any:
        origin, options = typing.get_origin(kind), typing.get_args(kind)
        if origin in (types.UnionType, typing.Union):
            if value is None and type(None) in options:
                return None
            return self.read(next(option for option in options if option is not type(None)), value, name)
        if kind is Any:
            return value
        if dataclasses.is_dataclass(kind):
            return self._members(kind, value, name)
        if origin is list:
            items = self._expect(list, value, name)
            return [self.read(options[0], item, f"{name}[{index}]") for index, item in enumerate(items)]
        if origin is dict:
            members = self._expect(dict, value, name)
            return {key: self.read(options[1], member, f"{name}.{key}") for key, member in members.items()}
        return self._expect(kind, value, name)

    def _members(self, kind: Any, value: Any, name: str) -> Any:
        data = self._expect(dict, value, name or "at the top")
        hints = typing.get_type_hints(kind)
        arguments = {}
        for member in dataclasses.fields(kind):
            full = f"{name}.{member.name}" if name else member.name
            if member.name in data:
                arguments[member.name] = self.read(hints[member.name], data[member.name], full)
            elif member.default is dataclasses.MISSING and member.default_factory is dataclasses.MISSING:
                raise self.error(f"field {full} is missing", where=self.where, mend=self.mend)
        return kind(**arguments)

    def _expect(self, kind: Any, value: Any, name: str) -> Any:
        accepted = (int, float) if kind is float else kind
        if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
            try:
                return float(value) if kind is float else value
            except OverflowError:  # an integer beyond the range of a float
                pass
        wanted = "a number" if kind is float else kind.__name__
        raise self.error(
            f"field {name} is {value!r:.60}, expected {wanted}", where=self.where, mend=self.mend
        )
