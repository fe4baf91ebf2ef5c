"""A long JSON array, item by item: LaMP's question files hold whole histories and grow to gigabytes."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from toolkit.errors import ProfileError

_PIECE = 1 << 20
_LONGEST_ITEM = 1 << 28  # characters; more than any user's history, and a bound on what a damaged file costs
_SPACE = re.compile(r"\s*")
_MEND = "Write one array of objects: [{...}, {...}]"


def array_items(file: IO[str], name: str) -> Iterator[Any]:
    """The items of the JSON array in `file`, in memory one at a time.

    Raises ProfileError with the line in the file called `name` where it is not a JSON array.
    """
    window = _Window(file, name)
    window.take("[")
    if window.peek() == "]":
        return
    while True:
        yield window.item()
        if window.take(",]") == "]":
            return


class _Window:
    """The piece of a text that is being decoded; `at` is the place in it, `line` the line it begins on."""

    def __init__(self, file: IO[str], name: str) -> None:
        self._file, self._name = file, name
        self._text, self._at, self._line = "", 0, 1
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on(_PIECE):
                return ""

    def take(self, accepted: str) -> str:
        """The next character, which must be one of `accepted`, passing over it."""
        character = self.peek()
        if not character or character not in accepted:
            found = repr(character) if character else "the end"
            raise self._error(f"{found} where {' or '.join(accepted)} is due", self._at)
        self._at += 1
        return character

    def item(self) -> Any:
        """The next value, passing over it."""
        self.peek()
        size = _PIECE
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                place = getattr(error, "pos", self._at)
                reason = getattr(error, "msg", None) or "a value that is too long or nested too deeply"
                complaint = self._error(reason, place)
                # The item may only be cut off by the window's end: look again with more text behind it.
                if len(self._text) > _LONGEST_ITEM or not self._read_on(size):
                    raise complaint from None
                size *= 2
            else:
                return value

    def _read_on(self, size: int) -> bool:
        piece = self._file.read(size)
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def _error(self, reason: str, place: int) -> ProfileError:
        line = self._line + self._text.count("\n", 0, place)
        return ProfileError(f"not JSON ({reason})", where=f"{self._name}, line {line}", mend=_MEND)
