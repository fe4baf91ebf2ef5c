"""What has come of the requests so far."""

from collections import Counter
from dataclasses import dataclass, field

from toolkit.augment.filters import FILTERS, Refusal, Sieve
from toolkit.augment.prompts import Request
from toolkit.augment.reading import Candidate
from toolkit.augment.result import Augmentation, TeacherAccount
from toolkit.augment.teachers import Completion, Teacher
from toolkit.errors import TeacherError
from toolkit.profiles import Example

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
            return
        self.dropped[sifted.filter] += 1
        samples = self.samples.setdefault(sifted.filter, [])
        if len(samples) < _SAMPLES:
            samples.append({"input": candidate.input, "output": candidate.output, "reason": sifted.reason})

    def result(
        self, teachers: list[Teacher], *, exhausted: str | None, hidden: dict[str, int], audit: str | None
    ) -> Augmentation:
        """The account, complete."""
        accounts = self.accounts
        return Augmentation(
            kept=tuple(self.kept),
            asked=self.asked,
            answered=sum(account.answered for account in accounts),
            dropped={name: self.dropped[name] for name in FILTERS},
            dropped_examples={name: self.samples.get(name, []) for name in FILTERS},
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
            notes=(*self.notes, *([exhausted] if exhausted else [])),
        )
