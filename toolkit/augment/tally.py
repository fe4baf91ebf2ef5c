"""What has come of the requests so far."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolkit.augment.failures import Failures
from toolkit.augment.filters import FILTERS, Refusal, Sieve
from toolkit.augment.prompts import Request
from toolkit.augment.reading import Candidate
from toolkit.augment.result import Augmentation, Round, TeacherAccount
from toolkit.augment.selection import MODEL_FILTERS, Selection
from toolkit.augment.teachers import Completion, Teacher
from toolkit.errors import TeacherError
from toolkit.profiles import Example

if TYPE_CHECKING:
    from toolkit.augment.selection.select import Selected

_SAMPLES = 3


@dataclass
class Account:
    """One teacher's part."""

    requests: int = 0
    reused: int = 0
    failed: int = 0
    answered: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_a_row: int = 0
    last: str = ""
    gave_up: str | None = None


@dataclass
class Tally:
    """Counts of everything, and the examples that were kept."""

    accounts: list[Account]
    kept: list[Example] = field(default_factory=list)
    asked: int = 0
    stopped: str | None = None
    notes: dict[str, None] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    written_by: dict[str, int] = field(default_factory=dict)  # a kept example's id -> its teacher's place
    selection: Selection | None = None
    rounds: list[Round] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Examples that the answers held."""
        return sum(account.answered for account in self.accounts)

    def end_round(self, failures: Failures | None) -> None:
        """Account for what came since the last round ended."""
        before = [sum(getattr(each, name) for each in self.rounds) for name in ("asked", "answered", "kept")]
        now = (self.asked, self.answered, len(self.kept))
        asked, answered, kept = (after - earlier for after, earlier in zip(now, before, strict=True))
        shown, wrong = (len(failures.places), failures.wrong) if failures else (0, None)
        self.rounds.append(Round(asked, answered, kept, shown, wrong))

    @property
    def answered_requests(self) -> int:
        """Requests that were answered, by whomever."""
        return sum(account.requests for account in self.accounts)

    def count(self, place: int, request: Request, answer: Completion, *, reused: bool) -> None:
        """Add one answered request."""
        account = self.accounts[place]
        self.asked += len(request.wanted)
        account.requests += 1
        account.reused += reused
        account.prompt_tokens += answer.prompt_tokens
        account.completion_tokens += answer.completion_tokens
        account.in_a_row = 0
        self.notes.update(dict.fromkeys(answer.notes))

    def fail(self, place: int, error: TeacherError) -> None:
        """Add one request that came to nothing."""
        self.accounts[place].failed += 1
        self.accounts[place].in_a_row += 1
        self.accounts[place].last = str(error)
        self.failures[str(error)] += 1

    def add(self, place: int, candidate: Candidate, sieve: Sieve, most: int) -> None:
        """Keep an example or account for its refusal."""
        self.accounts[place].answered += 1
        if len(self.kept) >= most:
            sifted: Candidate | Refusal = Refusal("surplus", "there are enough examples")
        else:
            sifted = sieve.sift(candidate)
        if isinstance(sifted, Candidate):
            name = f"synthetic-{len(self.kept) + 1:04d}"
            self.kept.append(Example(name, sifted.input, sifted.output))
            self.accounts[place].kept += 1
            self.written_by[name] = place
            return
        self._drop(candidate, sifted.filter, sifted.reason)

    def select(self, selected: "Selected") -> None:
        """Account for a choice of what was kept."""
        self.kept, self.selection = list(selected.kept), selected.account
        for each in selected.refused:
            self.accounts[self.written_by[each.example.id]].kept -= 1
            self._drop(each.example, each.filter, each.reason)

    def _drop(self, example: Candidate | Example, name: str, reason: str) -> None:
        self.dropped[name] += 1
        samples = self.samples.setdefault(name, [])
        if len(samples) < _SAMPLES:
            samples.append({"input": example.input, "output": example.output, "reason": reason})

    def result(
        self,
        teachers: list[Teacher],
        *,
        wanted: int,
        exhausted: str | None,
        hidden: dict[str, int],
        audit: str | None,
    ) -> Augmentation:
        """The account, complete."""
        accounts = self.accounts
        filters = (*FILTERS, *(MODEL_FILTERS if self.selection else ()))
        return Augmentation(
            kept=tuple(self.kept),
            asked=self.asked,
            answered=self.answered,
            dropped={name: self.dropped[name] for name in filters},
            dropped_examples={name: self.samples.get(name, []) for name in filters},
            prompt_tokens=sum(account.prompt_tokens for account in accounts),
            completion_tokens=sum(account.completion_tokens for account in accounts),
            teacher=", ".join(teacher.name for teacher in teachers),
            teachers=tuple(
                TeacherAccount(
                    name=teacher.name,
                    requests=account.requests,
                    failed=account.failed,
                    answered=account.answered,
                    kept=account.kept,
                    prompt_tokens=account.prompt_tokens,
                    completion_tokens=account.completion_tokens,
                    cost=teacher.price.of(account.prompt_tokens, account.completion_tokens),
                    gave_up=account.gave_up,
                )
                for teacher, account in zip(teachers, accounts, strict=True)
            ),
            requests=self.answered_requests,
            reused=sum(account.reused for account in accounts),
            failures=dict(self.failures),
            hidden=hidden,
            audit=audit,
            stopped=self.stopped,
            selection=self.selection,
            notes=(*self.notes, *([exhausted] if exhausted else [])),
            wanted=wanted,
            rounds=tuple(self.rounds),
        )
