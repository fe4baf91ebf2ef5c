"""The errors a user can mend: what was wrong, where, and what puts it right.

The command line prints them as one line and exits with `exit_code`; a traceback is a bug.
"""

from collections.abc import Sequence


class EdgePLMError(Exception):
    """Something the user can mend.

    `where` names the file, line or field; `mend` says what to do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what = what.rstrip(".")
        self.where = where
        self.mend = mend
        place = f"{where}: " if where else ""
        advice = f". {mend}" if mend else ""
        super().__init__(f"{place}{self.what}{advice}")


class RecipeError(EdgePLMError):
    """A recipe with one or more problems; all of them are in `problems`, several are shown a line each."""

    def __init__(self, problems: Sequence[str], *, where: str | None = None, mend: str | None = None) -> None:
        self.problems = list(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0], where=where, mend=mend)
            return
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} problems{listed}", where=where, mend=mend)
        place = f"{where}: " if where else ""
        advice = f"\n{mend}" if mend else ""
        self.args = (f"{place}{self.what}{advice}",)


class ProfileError(EdgePLMError):
    """A person's examples cannot be used as they are."""


class TaskError(RecipeError):
    """A task file with one or more problems."""


class ModelError(EdgePLMError):
    """A model source that cannot be found, read or used."""


class TrainingError(EdgePLMError):
    """A training whose loss is no longer a number."""


class AdapterError(EdgePLMError):
    """A LoRA adapter that cannot be read or does not fit its base model."""


class BundleError(EdgePLMError):
    """A bundle that is incomplete, altered, unsafe or made for something else."""


class TeacherError(EdgePLMError):
    """The model that writes synthetic examples cannot be reached or used."""


class DeviceError(EdgePLMError):
    """A device that cannot be reached or cannot run a bundle."""


def printable(text: str) -> str:
    """`text` without what a terminal would obey: it may quote a profile, a user id or a server's answer."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)
