"""Whose adapters a study trains."""

from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ProfileError
from toolkit.profiles import Profile, read_profile, read_profiles
from toolkit.samples import sample_users
from toolkit.tasks import Task, load_task


@dataclass(frozen=True)
class Person:
    """One person and the task that their examples are of."""

    profile: Profile
    task: Task


def read_people(path: Path | None, task_name: str, count: int, least: int) -> list[Person]:
    """The first `count` people of a profile file with at least `least` examples and a query.

    Without a path the sample users of that task. Raises ProfileError if nobody is left.
    """
    task = load_task(task_name)
    if path is None:
        everybody = [read_profile(user.path, task) for user in sample_users() if user.task == task_name]
    else:
        everybody = read_profiles(path, task, skip_empty=True)
    chosen = [each for each in everybody if len(each.history) >= least and each.queries][:count]
    if not chosen:
        raise ProfileError(
            f"nobody has {least} examples and a query",
            where=str(path or "the sample users"),
            mend="Lower --least",
        )
    return [Person(profile, task) for profile in chosen]
