"""Who is to be trained, and in which batches."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from toolkit.errors import ProfileError
from toolkit.profiles import Profile, read_each_profile
from toolkit.tasks import Task

BATCH = 16  # people that a worker takes at once
_LONGEST_KEY = 100  # bytes of a folder's name
_DATASET = (
    "dataset_dict.json",
    "dataset_info.json",
    "state.json",
    "questions.json",
)  # a folder that is one source
_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")


@dataclass(frozen=True)
class Person:
    """One person of the fleet; `key` is the name of their folder, `digest` that of their profile."""

    key: str
    profile: Profile
    digest: str


@dataclass(frozen=True)
class Failure:
    """Somebody who has no adapter, and why."""

    user_id: str
    reason: str


@dataclass(frozen=True)
class Users:
    """Everybody who was read, and those whose profile cannot be used."""

    people: tuple[Person, ...]
    failures: tuple[Failure, ...]


def read_users(source: Path, task: Task) -> Users:
    """The people in a file of profiles, or in all files of a folder.

    A person whose examples cannot be used is a failure, and so is a file of a folder that cannot be read; a
    person who is in two files is one from the second on. Raises ProfileError where nobody is left.
    """
    people: dict[str, Person] = {}
    failures: list[Failure] = []
    files = _files(source)
    for file in files:
        try:
            profiles, faults = read_each_profile(file, task)
        except ProfileError as error:
            if len(files) == 1:
                raise
            failures.append(Failure(file.name, str(error)))
            continue
        failures += [Failure(user, str(error)) for user, error in faults.items()]
        for profile in profiles:
            key = key_of(profile.user_id)
            if key in people:
                failures.append(Failure(profile.user_id, f"{file}: is in another file too"))
                continue
            people[key] = Person(key, profile, profile.digest()[:16])
    if not people:
        first = f", the first error being {failures[0].reason}" if failures else ""
        raise ProfileError(
            f"holds nobody to train on{first}",
            where=str(source),
            mend="Give a file of profiles, or a folder of such files",
        )
    return Users(tuple(people.values()), tuple(failures))


def batches(people: Sequence[Person], size: int) -> list[list[Person]]:
    """Batches of `size`, the people with the longest histories first.

    Like lengths together fill a worker's passes evenly, and the short ones at the end leave no worker alone
    with a long batch.
    """
    order = sorted(people, key=lambda person: -len(person.profile.history))
    return [order[start : start + size] for start in range(0, len(order), size)]


def remaining(people: Sequence[Person], done: Collection[tuple[str, str]]) -> list[Person]:
    """Those who are not among the finished ones, (key, digest): their profile may have changed since."""
    return [person for person in people if (person.key, person.digest) not in done]


def key_of(user_id: str) -> str:
    """A user id as a name that any file system and bundle takes; different ids have different names."""
    key = quote(user_id, safe=" @+=,")
    key = key.replace(".", "%2E") if key.startswith(".") or key.endswith(".") else key
    if len(key) <= _LONGEST_KEY and key == key.strip():
        return key
    return f"{key.strip()[:60]}-{hashlib.sha256(user_id.encode()).hexdigest()[:16]}"


def _files(source: Path) -> list[Path]:
    if not source.is_dir() or any((source / name).exists() for name in _DATASET):
        return [source]
    return sorted(_readable(source)) or [source]


def _readable(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_file() and path.name.endswith(_SUFFIXES) and not path.name.startswith("."):
            yield path
