"""Profiles: one person's examples and held-out queries, whatever file they come in.

The forms, told apart by what a file holds: LaMP's questions and outputs; JSON lines with one user or one
example a line; CSV; a Hugging Face datasets folder. `toolkit.profile_formats` opens them and
`toolkit.profile_rows` reads their rows.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ProfileError
from toolkit.files import write_atomic
from toolkit.tasks import Task

if TYPE_CHECKING:
    from toolkit.profile_formats import Record

_SHOWN_USERS = 8


@dataclass(frozen=True)
class Example:
    """An input, as the task's prompt template takes it, and its gold output.

    A query's output is "" where the gold is not known. `time` is as it was written, if at all.
    """

    id: str
    input: str
    output: str
    time: str | None = None


@dataclass(frozen=True)
class Profile:
    """One person's examples for one task, oldest first, and the queries held out from them."""

    user_id: str
    task: str
    history: tuple[Example, ...]
    queries: tuple[Example, ...]

    def digest(self) -> str:
        """Hex sha256 of all content, whatever file it came from."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_profiles(path: Path, task: Task, *, skip_empty: bool = False) -> list[Profile]:
    """Every user's profile in a file or folder, in the order they first appear.

    `skip_empty` leaves out users without history, whom LaMP has; otherwise they are an error. Raises
    ProfileError with the file and line or record: unreadable, malformed or missing fields, empty texts,
    labels outside the task's, ids given twice.
    """
    return _read(path, task, wanted=None, skip_empty=skip_empty)


def read_each_profile(path: Path, task: Task) -> tuple[list[Profile], dict[str, ProfileError]]:
    """Every user's profile that can be used, and the first error of each user whose cannot.

    Raises ProfileError where it is not a matter of one user: a file that cannot be read or parsed.
    """
    faults: dict[str, ProfileError] = {}
    return _read(path, task, wanted=None, faults=faults), faults


def read_profile(path: Path, task: Task, user: str | None = None) -> Profile:
    """One user's profile; `user` may be left out where the file holds only one.

    Only that user's rows are checked. Raises ProfileError as `read_profiles` does, and where the user is
    not there or several are and none is named.
    """
    if user is None:
        users = _first_users(path, _SHOWN_USERS + 1)
        if len(users) > 1:
            more = f"more than {_SHOWN_USERS}" if len(users) > _SHOWN_USERS else str(len(users))
            raise ProfileError(
                f"holds {more} users", where=str(path), mend=f"Name one of them: {_listed(users)}"
            )
        user = users[0]
    found = _read(path, task, wanted=user)
    if not found:
        users = _first_users(path, _SHOWN_USERS + 1)
        raise ProfileError(f"no user {user!r}", where=str(path), mend=f"It holds: {_listed(users)}")
    return found[0]


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile as JSON lines, one example a line, history first; `read_profile` reads it back."""
    lines = []
    for split, examples in (("history", profile.history), ("query", profile.queries)):
        for example in examples:
            row: dict[str, Any] = {"user_id": profile.user_id, "task": profile.task, "split": split}
            row |= {name: value for name, value in asdict(example).items() if value is not None}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines))


@dataclass
class _Draft:
    """A user's examples while the file is being read; `place` is where the user first appeared."""

    place: str
    history: list[Example] = field(default_factory=list)
    queries: list[Example] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def add(self, split: str, example: Example, where: str) -> None:
        if example.id in self.ids:
            raise ProfileError(
                f"the id {example.id!r} is given twice for one user",
                where=where,
                mend="Give every example of a user, history and queries alike, an id of its own",
            )
        self.ids.add(example.id)
        (self.history if split == "history" else self.queries).append(example)


def _read(
    path: Path,
    task: Task,
    wanted: str | None,
    skip_empty: bool = False,
    faults: dict[str, ProfileError] | None = None,
) -> list[Profile]:
    """The profiles of all users or of the `wanted` one; users' errors go into `faults` if that is given."""
    from toolkit import profile_rows as rows
    from toolkit.profile_formats import read_records

    drafts: dict[str, _Draft] = {}
    for user, record in rows.with_users(read_records(path), path):
        if (wanted is not None and user != wanted) or (faults and user in faults):
            continue
        try:
            _take(record, user, drafts, task)
        except ProfileError as error:
            if faults is None:
                raise
            faults[user] = error
            drafts.pop(user, None)
    for user, draft in drafts.items():
        if draft.history or skip_empty:
            continue
        lacking = ProfileError(
            f"user {user!r} has no history",
            where=draft.place,
            mend="Give the user at least one example, or leave the user out",
        )
        if faults is None:
            raise lacking
        faults[user] = lacking
    return [
        Profile(user, task.name, tuple(rows.oldest_first(draft.history)), tuple(draft.queries))
        for user, draft in drafts.items()
        if draft.history
    ]


def _take(record: "Record", user: str, drafts: dict[str, _Draft], task: Task) -> None:
    """Put a record's examples into its user's draft."""
    from toolkit import profile_rows as rows

    rows.check_task(record, task)
    known = user in drafts
    draft = drafts.setdefault(user, _Draft(record.where))
    if not rows.is_user_row(record):
        split, example = rows.read_example_row(record, task)
        draft.add(split, example, record.where)
        return
    if known and not record.is_question:
        raise ProfileError(
            f"user {user!r} is given twice, the first time in {draft.place}",
            where=record.where,
            mend="Put all of a user's history and queries into one row",
        )
    for split, example, where in rows.read_user_row(record, task, user):
        # As in LaMP's per-user training: a later question's history may hold an earlier question.
        if not (known and split == "history"):
            draft.add(split, example, where)


def _first_users(path: Path, count: int) -> list[str]:
    """The first `count` different user ids in a file, at least one."""
    from toolkit.profile_formats import read_records
    from toolkit.profile_rows import with_users

    users: dict[str, None] = {}
    for user, _ in with_users(read_records(path), path):
        users.setdefault(user)
        if len(users) == count:
            break
    return list(users)


def _listed(users: list[str]) -> str:
    return ", ".join(users[:_SHOWN_USERS]) + (", ..." if len(users) > _SHOWN_USERS else "")
