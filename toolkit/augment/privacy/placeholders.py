"""Typed placeholders for personal data: the same text always has the same one, and it can be put back.

Within a number, letters tell spellings apart: <PERSON_1> is Maud and <PERSON_1b> is maud, so that a reader
of the placeholders sees one person, and each spelling comes back as it was.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from toolkit.augment.privacy.detect import KINDS, Finder, Span

_NAMES = "|".join(kind.upper() for kind in KINDS)
# As teachers write them back: with other brackets, an escape, a blank, or in another case. Without brackets
# it must be in capitals, or "person 1" in a sentence would be one.
_EXACT = rf"<({_NAMES})_(\d+)([b-z]?)>"
_LOOSE = (
    rf"(?i:<\s*({_NAMES})[\s\\_-]*(\d+)([b-z]?)\s*>|\[\s*({_NAMES})[\s\\_-]*(\d+)([b-z]?)\s*\])"
    rf"|\b({_NAMES})_(\d+)([b-z]?)\b"
)
_PLACEHOLDER = re.compile(f"{_EXACT}|{_LOOSE}")
_WORD = re.compile(r"[^\W\d_]+")
_VARIANTS = " bcdefghijklmnopqrstuvwxyz"
_SHORTEST_PART = 3


class Placeholders:
    """Replaces personal data in texts, consistently, and puts it back.

    `texts` is everything that may be sent: personal data that is found anywhere in it is replaced everywhere
    in it, in any case, also where the detector alone would not see it (a name in small letters, a surname
    by itself). Words that are names and mean something else as well (day, after Doris Day) are an exception:
    one that is written small more often than not is replaced only as it was found, unless the finder knows
    it for a first name and nothing else. The table stays in memory and is written nowhere.
    """

    def __init__(self, finder: Finder, texts: Iterable[str]) -> None:
        self._finder = finder
        self._by_surface: dict[tuple[str, str], str] = {}
        self._surfaces: dict[str, str] = {}
        self._identities: dict[tuple[str, str], tuple[int, int]] = {}
        self._numbers: Counter[str] = Counter()
        known = list(dict.fromkeys(texts))
        self._words = Counter(word for text in known for word in _WORD.findall(text))
        self._found = {text: tuple(self._with_look_alikes(text)) for text in known}
        self._anywhere = self._everywhere(known)
        for text in known:
            self.hide(text)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many different things of each kind were found."""
        return dict(sorted(self._numbers.items()))

    def hide(self, text: str) -> str:
        """The text with placeholders in the place of personal data."""
        parts, place = [], 0
        for span in self._spans(text):
            parts += [text[place : span.start], self._placeholder(span.kind, text[span.start : span.end])]
            place = span.end
        return "".join(parts) + text[place:]

    def restore(self, text: str) -> str:
        """The text with what the placeholders stand for; unknown placeholders stay as they are."""
        return _PLACEHOLDER.sub(lambda match: self._surfaces.get(_canonical(match), match[0]), text)

    def unknown(self, text: str) -> list[str]:
        """Placeholders in a teacher's text that stand for nothing: the teacher made them up."""
        return [match[0] for match in _PLACEHOLDER.finditer(text) if _canonical(match) not in self._surfaces]

    def _spans(self, text: str) -> list[Span]:
        found = self._found.get(text)
        spans = list(self._with_look_alikes(text) if found is None else found)
        for kind, pattern in self._anywhere:
            spans += [Span(match.start(), match.end(), kind) for match in pattern.finditer(text)]
        return merged(spans)

    def _with_look_alikes(self, text: str) -> list[Span]:
        """What the detector finds, and whatever would itself be read as a placeholder."""
        literal = [Span(match.start(), match.end(), "text") for match in _PLACEHOLDER.finditer(text)]
        return [*self._finder.find(text), *literal]

    def _everywhere(self, texts: Sequence[str]) -> list[tuple[str, re.Pattern[str]]]:
        """For each kind, an expression for what was found of it anywhere."""
        words: dict[str, dict[str, None]] = {}
        for text in texts:
            for span in merged(self._found[text]):
                surface = text[span.start : span.end]
                parts = _name_parts(surface) if span.kind == "person" else []
                for each in [surface, *(part for part in parts if not self._finder.is_common(part))]:
                    words.setdefault(span.kind, {}).setdefault(each)
        return [(kind, re.compile(self._any_of(words[kind]))) for kind in KINDS if kind in words]

    def _any_of(self, surfaces: Iterable[str]) -> str:
        longest_first = sorted(surfaces, key=lambda surface: (-len(surface), surface))
        parts = [
            re.escape(each) if self._is_ordinary(each) else f"(?i:{re.escape(each)})"
            for each in longest_first
        ]
        return rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)"

    def _is_ordinary(self, surface: str) -> bool:
        if not _WORD.fullmatch(surface) or self._finder.is_surely_name(surface):
            return False
        return self._words[surface.lower()] > self._words[surface.capitalize()]

    def _placeholder(self, kind: str, surface: str) -> str:
        if (kind, surface) not in self._by_surface:
            identity = (kind, " ".join(surface.casefold().split()))
            if identity not in self._identities or self._identities[identity][1] >= len(_VARIANTS):
                self._numbers[kind] += 1
                self._identities[identity] = (self._numbers[kind], 0)
            number, variant = self._identities[identity]
            self._identities[identity] = (number, variant + 1)
            name = f"<{kind.upper()}_{number}{_VARIANTS[variant].strip()}>"
            self._by_surface[kind, surface] = name
            self._surfaces[name] = surface
        return self._by_surface[kind, surface]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans without overlaps: those that overlap become one, so that no end of either is left over.

    Its kind is that of the longest; of equally long ones the kind that comes first in `KINDS`.
    """
    result: list[Span] = []
    longest = (0, 0)
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        weight = (span.end - span.start, -KINDS.index(span.kind))
        if result and span.start < result[-1].end:
            last = result.pop()
            kind = span.kind if weight > longest else last.kind
            result.append(Span(last.start, max(last.end, span.end), kind))
            longest = max(longest, weight)
        else:
            result.append(span)
            longest = weight
    return result


def _name_parts(name: str) -> list[str]:
    """The words of a name that mean somebody by themselves; initials do not."""
    parts = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", name)
    return [each for each in parts if len(each) >= _SHORTEST_PART and each[0].isupper()] if parts[1:] else []


def _canonical(match: re.Match[str]) -> str:
    kind, number, variant = (group for group in match.groups() if group is not None)
    return f"<{kind.upper()}_{number}{variant.lower()}>"
