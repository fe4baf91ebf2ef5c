"""Finding personal data in a text: Presidio's recognisers, more of our own, names, the recipe's patterns.

Presidio finds structured data by expression and checksum, and phone numbers with Google's libphonenumber.
What is added here errs on the side of finding too much: a placeholder too many costs the teacher a detail,
one too few sends somebody's data away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from toolkit.augment.privacy.expressions import NOT_SOMEBODYS, PATTERNS
from toolkit.errors import EdgePLMError, TeacherError
from toolkit.recipe_augment import HIDEABLE

# Where two equally long finds overlap, the kind that comes first is taken. `own`: the recipe's patterns.
# `text`: what would be read as a placeholder itself.
KINDS = ("own", "text", *HIDEABLE)

# By country: what Presidio finds by itself, and what needs a word beside it (passport, account) to count.
_PRESIDIO = {
    "email": ("EMAIL_ADDRESS",),
    "card": ("CREDIT_CARD",),
    "iban": ("IBAN_CODE",),
    "phone": ("PHONE_NUMBER",),
    "ip": ("IP_ADDRESS", "MAC_ADDRESS"),
    "address": ("UK_POSTCODE",),
    "id": ("US_SSN", "US_ITIN", "US_PASSPORT", "US_BANK_NUMBER", "US_DRIVER_LICENSE", "UK_NHS", "UK_NINO",
           "UK_PASSPORT", "UK_DRIVING_LICENCE", "UUID", "CRYPTO"),
}  # fmt: skip
_REGIONS = (
    "US", "GB", "CA", "AU", "IE", "NZ", "DE", "AT", "CH", "FR", "BE", "NL", "ES", "PT", "IT", "PL", "SE",
    "DK", "NO", "FI", "CZ", "GR", "IL", "TR", "ZA", "NG", "IN", "SG", "JP", "KR", "BR", "MX",
)  # fmt: skip
_THRESHOLD = 0.35

_PATTERN_SECONDS = 5.0


@dataclass(frozen=True)
class Span:
    """Personal data of a kind from `start` to `end`, in characters."""

    start: int
    end: int
    kind: str


class Finder(Protocol):
    """Finds personal data, and knows words."""

    def find(self, text: str) -> list[Span]:
        """Personal data in a text; spans may overlap."""
        ...

    def is_surely_name(self, word: str) -> bool:
        """Whether a word, in whatever case, is a first name and hardly anything else."""
        ...

    def is_common(self, word: str) -> bool:
        """Whether a word is too common to mean a person (the, of a "The Duke")."""
        ...


def open_finder(
    kinds: Sequence[str], patterns: Sequence[str] = (), name_model: str = "en_core_web_sm"
) -> Finder:
    """A finder of personal data of `kinds`, and of whatever `patterns` match.

    `name_model` is a spaCy pipeline: a package's name or a folder. Raises TeacherError if the `privacy` extra
    or the pipeline is not installed, or an expression is none.
    """
    return _Finder(kinds, patterns, name_model)


class _Finder:
    def __init__(self, kinds: Sequence[str], patterns: Sequence[str], name_model: str) -> None:
        self._own = [_compiled(pattern) for pattern in patterns]
        self._analyze = _presidio(kinds, name_model) if kinds else None

    def find(self, text: str) -> list[Span]:
        return (self._analyze(text) if self._analyze else []) + _own_spans(self._own, text)

    def is_surely_name(self, word: str) -> bool:
        from toolkit.augment.privacy.names import is_surely_name

        return self._analyze is not None and is_surely_name(word)

    def is_common(self, word: str) -> bool:
        from toolkit.augment.privacy.names import is_common

        return self._analyze is not None and is_common(word)


def _presidio(kinds: Sequence[str], name_model: str) -> Callable[[str], list[Span]]:
    try:
        import presidio_analyzer
        import regex
        from presidio_analyzer import predefined_recognizers as ready
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    except ImportError as error:
        raise _not_installed(f"{error.name} is not installed") from error
    from toolkit.augment.privacy.names import load_pipeline, people_and_places

    class Email(ready.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> None:
            """Presidio's own asks tldextract, which fetches a list over the network."""

    nlp = load_pipeline(name_model)
    # Entities are read from spaCy's own document, below; Presidio is to take none and warn of none.
    ignored = NerModelConfiguration(labels_to_ignore=list(nlp.pipe_labels.get("ner", ())))
    engine = SpacyNlpEngine(ner_model_configuration=ignored)
    # Set from outside, because Presidio's own load() would download a pipeline that is not there.
    engine.nlp = {"en": nlp}
    recognisers = [
        Email(), ready.CreditCardRecognizer(), ready.IbanRecognizer(), ready.IpRecognizer(),
        ready.MacAddressRecognizer(), ready.UuidRecognizer(), ready.CryptoRecognizer(),
        ready.PhoneRecognizer(supported_regions=_REGIONS), ready.UkPostcodeRecognizer(),
        ready.UsSsnRecognizer(), ready.UsItinRecognizer(), ready.UsPassportRecognizer(),
        ready.UsBankRecognizer(), ready.UsLicenseRecognizer(), ready.NhsRecognizer(),
        ready.UkNinoRecognizer(), ready.UkPassportRecognizer(), ready.UkDrivingLicenceRecognizer(),
    ]  # fmt: skip
    analyzer = presidio_analyzer.AnalyzerEngine(
        registry=presidio_analyzer.RecognizerRegistry(recognisers, supported_languages=["en"]),
        nlp_engine=engine,
        supported_languages=["en"],
    )
    kind_of = {entity: kind for kind in kinds for entity in _PRESIDIO.get(kind, ())}
    ours = [(kind, regex.compile(pattern)) for kind, pattern in PATTERNS if kind in kinds]
    nobodys = regex.compile(NOT_SOMEBODYS)

    def analyze(text: str) -> list[Span]:
        artifacts = engine.process_text(text, "en")
        spans = [
            Span(each.start, each.end, kind_of[each.entity_type])
            for each in analyzer.analyze(
                text, "en", entities=list(kind_of), score_threshold=_THRESHOLD, nlp_artifacts=artifacts
            )
            if each.entity_type in kind_of  # without entities named, Presidio looks for all of them
        ]
        for kind, pattern in ours:
            spans += [Span(match.start(), match.end(), kind) for match in pattern.finditer(text) if match[0]]
        for start, end, kind in people_and_places(artifacts.tokens):
            spans += [Span(start, end, kind)] if kind in kinds else []
        return [
            span
            for span in spans
            if span.kind not in ("phone", "id")
            or not nobodys.fullmatch(text[span.start : span.end].strip("()"))
        ]

    return analyze


def _compiled(pattern: str) -> Any:
    """An expression of the recipe's; `regex`, unlike `re`, can be stopped."""
    try:
        import regex
    except ImportError as error:
        raise _not_installed("regex is not installed") from error
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise TeacherError(
            f"{pattern!r} is no regular expression ({error})",
            where="augment.patterns",
            mend="Mend the expression",
        ) from None


def _own_spans(patterns: Sequence[Any], text: str) -> list[Span]:
    spans = []
    for pattern in patterns:
        try:
            matches = [match.span() for match in pattern.finditer(text, timeout=_PATTERN_SECONDS) if match[0]]
        except TimeoutError:
            raise TeacherError(
                f"{pattern.pattern!r} takes more than {_PATTERN_SECONDS:.0f} s on one text",
                where="augment.patterns",
                mend="Write it without nested repetitions",
            ) from None
        spans += [Span(start, end, "own") for start, end in matches]
    return spans


def _not_installed(what: str) -> EdgePLMError:
    return TeacherError(
        f"personal data is replaced before anything is sent, and for that {what}",
        where="augment.hide",
        mend="Install it: pip install 'edgeplm[privacy]'. Or send texts as they are: augment.hide: [nothing]",
    )
