"""Six invented people whose examples come with EdgePLM, to try every command on."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from toolkit.errors import ProfileError

_ABOUT = (
    ("maud", "lamp-3", "Rates books, teas and outings in her own words: charming is a 2, no complaint a 5."),
    (
        "theo",
        "lamp-3",
        "A mountain guide who rates gear by whether it broke, however ugly or charming it is.",
    ),
    (
        "ines",
        "lamp-5",
        "A marine biologist whose titles ask what a thing can tell us, and end with the place.",
    ),
    ("kofi", "lamp-5", "A historian of machines whose titles are notes towards a history, in three parts."),
    (
        "bo",
        "rewrite",
        "A plumber who writes in small letters, with slashes for full stops, and signs off with ta.",
    ),
    (
        "amara",
        "rewrite",
        "A surgeon who writes every message as a formal letter, with the hours from 00 to 24.",
    ),
)


@dataclass(frozen=True)
class SampleUser:
    """An invented person, the task their examples are of, and what is personal about them."""

    user_id: str
    task: str
    about: str

    @property
    def path(self) -> Path:
        """The profile file, as JSON lines."""
        return Path(str(files("toolkit.samples") / f"{self.user_id}.jsonl"))


def sample_users() -> list[SampleUser]:
    """The people, two for each of three tasks."""
    return [SampleUser(*row) for row in _ABOUT]


def sample_user(user_id: str) -> SampleUser:
    """One of the people; ProfileError names those there are."""
    for user in sample_users():
        if user.user_id == user_id:
            return user
    names = ", ".join(user.user_id for user in sample_users())
    raise ProfileError(f"no sample user {user_id!r}", mend=f"Choose one of: {names}")


def sample_path(user_id: str) -> Path:
    """One person's profile file; ProfileError names the people there are."""
    return sample_user(user_id).path
