"""What augmentation gave: the examples that were kept and an account of all the others."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.augment.selection import Selection
from toolkit.errors import EdgePLMError
from toolkit.files import sha256_of, write_atomic
from toolkit.json_dataclass import read_dataclass
from toolkit.profiles import Example

EXAMPLES_FILE, REPORT_FILE = "synthetic.jsonl", "report.json"
_VERSION = 3


@dataclass(frozen=True)
class TeacherAccount:
    """One teacher's part: requests answered and failed, examples answered and kept, tokens and their cost.

    `gave_up`: why it was not asked any more, if so.
    """

    name: str
    requests: int
    failed: int
    answered: int
    kept: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    gave_up: str | None = None

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Round:
    """One round of writing: examples asked for, answered and kept.

    `shown`: how many of the person's own examples it aimed at, being those that an adapter did worst on (0:
    none, as in a first round); `wrong`: how many of all training examples the adapter answered wrongly, where
    answers are labels.
    """

    asked: int
    answered: int
    kept: int
    shown: int = 0
    wrong: int | None = None

    @property
    def about(self) -> str:
        """What the teacher was shown, for a report."""
        if not self.shown:
            return "the whole history"
        wrong = "" if self.wrong is None else f"; {self.wrong} wrong"
        return f"{self.shown} that an adapter does worst on{wrong}"


@dataclass(frozen=True)
class Augmentation:
    """Synthetic examples and how they came about.

    `asked`: examples asked for; `answered`: examples that the answers held, readable or not, of which `kept`
    and `dropped` (by filter) are the parts. `requests`: conversations answered, `reused` of them from the
    answers file of an earlier run. `dropped_examples`: up to three of each filter, with the reason. Tokens
    are of all answers used; `teacher` are all teachers' names, `teachers` the account of each. `failures`:
    what went wrong with requests, and how often. `hidden`: how many different things of each kind network
    teachers saw placeholders of; `audit`: the file with all that was sent to them. `stopped`: why the run
    ended early, if it did. `notes`: anything else that a reader should know. `selection`: the account of the
    filters by models, None if they were turned off. `wanted`: how many were to be kept. `rounds`: the account
    of each round.
    """

    kept: tuple[Example, ...]
    asked: int
    answered: int
    dropped: Mapping[str, int]
    dropped_examples: Mapping[str, list[dict[str, str]]]
    prompt_tokens: int
    completion_tokens: int
    teacher: str
    requests: int = 0
    reused: int = 0
    teachers: tuple[TeacherAccount, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    hidden: Mapping[str, int] = field(default_factory=dict)
    audit: str | None = None
    stopped: str | None = None
    notes: tuple[str, ...] = field(default=())
    selection: Selection | None = None
    wanted: int = 0
    rounds: tuple[Round, ...] = ()

    @property
    def survival(self) -> float:
        """The share of answered examples that every filter let through, 0 to 1."""
        return len(self.kept) / self.answered if self.answered else 0.0

    @property
    def cost(self) -> float:
        """What all answers used cost, by the recipe's prices."""
        return sum(teacher.cost for teacher in self.teachers)

    @property
    def nothing_kept(self) -> str | None:
        """What became of all that was asked for, if examples were wanted and not one was kept."""
        if self.kept or not self.wanted:
            return None
        most = max(self.dropped.items(), key=lambda each: each[1], default=("", 0))
        if not self.answered:
            return f"none of the {self.asked} synthetic examples asked for was answered"
        return (
            f"none of the {self.answered} synthetic examples that were written was kept, most of them "
            f"({most[1]}) because of the filter {most[0]}"
        )


def write_augmentation(augmentation: Augmentation, folder: Path) -> None:
    """Write the examples as JSON lines and, after them, the report; a report vouches for its examples."""
    rows = [{"id": each.id, "input": each.input, "output": each.output} for each in augmentation.kept]
    examples = folder / EXAMPLES_FILE
    write_atomic(examples, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    report = {name: value for name, value in asdict(augmentation).items() if name != "kept"}
    report = {"version": _VERSION, "kept": len(rows), "sha256": sha256_of(examples), **report}
    write_atomic(folder / REPORT_FILE, json.dumps(report, ensure_ascii=False, indent=2) + "\n")


def read_augmentation(folder: Path) -> Augmentation:
    """Read back what `write_augmentation` wrote.

    Raises EdgePLMError if a file is missing, cannot be read, or the examples are not those of the report.
    """
    mend = "Run the augmentation again"
    try:
        report: dict[str, Any] = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        if report.pop("version") != _VERSION:
            raise EdgePLMError("was written by another version", where=str(folder / REPORT_FILE), mend=mend)
        if report.pop("sha256") != sha256_of(folder / EXAMPLES_FILE):
            raise EdgePLMError("is not as its report says", where=str(folder / EXAMPLES_FILE), mend=mend)
        lines = (folder / EXAMPLES_FILE).read_text(encoding="utf-8").split("\n")
        kept = tuple(Example(**json.loads(line)) for line in lines if line)
        teachers = tuple(TeacherAccount(**each) for each in report["teachers"])
        rounds = tuple(Round(**each) for each in report["rounds"])
        report |= {"kept": kept, "notes": tuple(report["notes"]), "teachers": teachers, "rounds": rounds}
        report["selection"] = read_dataclass(
            Selection | None, report["selection"], where=str(folder / REPORT_FILE), mend=mend
        )
        return Augmentation(**report)
    except OSError as error:
        raise EdgePLMError(
            f"cannot be read ({error.strerror})", where=str(error.filename or folder), mend=mend
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgePLMError("holds no augmentation that can be read", where=str(folder), mend=mend) from error
