"""What a report is made of. A part that is None or empty is left out of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.results import Result

Role = Literal["base", "history", "adapter", "synthetic", "artifact"]


@dataclass(frozen=True)
class TaskFacts:
    """The task, with the primary metric that the arms are compared by."""

    name: str
    description: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Query:
    """A held-out query and its gold answer."""

    text: str
    gold: str


@dataclass(frozen=True)
class Arm:
    """One way to answer the queries.

    `role` says what it is: the base model, the base model with history in the prompt, the adapter trained on
    real examples, the adapter trained on real and synthetic examples, or the artifact in its own runtime.
    `answers` are the model's answers, query by query; `per_query` the primary metric's values of all queries,
    or of those that have a gold answer.
    """

    name: str
    role: Role
    metrics: Mapping[str, float]
    per_query: tuple[float, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """The training loss at each step of one adapter."""

    label: str
    losses: tuple[float, ...]


@dataclass(frozen=True)
class TeacherPart:
    """What one teacher did: requests answered and failed, examples kept, tokens and their cost."""

    name: str
    requests: int
    failed: int
    kept: int
    tokens: int
    cost: float


@dataclass(frozen=True)
class Refused:
    """A synthetic example that a filter refused, and why."""

    filter: str
    reason: str
    input: str
    output: str


@dataclass(frozen=True)
class WritingRound:
    """One round of writing: what it was about, and the examples asked for, answered and kept."""

    about: str
    asked: int
    answered: int
    kept: int


@dataclass(frozen=True)
class SelectionStep:
    """What one filter by models did: `note` says what it went by, or why it does not act."""

    filter: str
    judged: int
    refused: int
    acts: bool
    note: str


@dataclass(frozen=True)
class SelectionPart:
    """Which of the candidates models chose.

    `discrepancy`: squared maximum mean discrepancy to the history and its p-value, of all candidates and of
    those kept. `leakage`: the highest and the median cosine to a held-out query, of what was kept and of the
    history. `points`: what it is (history, kept, refused) -> places in the plane of the first two principal
    components.
    """

    embedding: str
    candidates: int
    kept: int
    steps: tuple[SelectionStep, ...] = ()
    discrepancy: tuple[tuple[float, float], tuple[float, float]] | None = None
    leakage: tuple[float, float, float, float] | None = None
    points: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Augmentation:
    """How many synthetic examples came through; `dropped` is filter name -> count.

    `distribution`: (label or range of lengths, share of the history, share of the synthetic examples).
    `hidden`: kind of personal data -> how many things of it network teachers saw placeholders of. `audit`:
    the file with all that was sent. `failures`: what went wrong with requests, and how often.
    """

    asked: int
    answered: int
    dropped: Mapping[str, int]
    kept: int
    teachers: tuple[TeacherPart, ...] = ()
    refused: tuple[Refused, ...] = ()
    distribution: tuple[tuple[str, float, float], ...] = ()
    hidden: Mapping[str, int] = field(default_factory=dict)
    audit: str = ""
    failures: Mapping[str, int] = field(default_factory=dict)
    rounds: tuple[WritingRound, ...] = ()
    selection: SelectionPart | None = None


@dataclass(frozen=True)
class ExportedFile:
    """One file of the artifact; `precision` is empty for files without weights."""

    name: str
    bytes: int
    precision: str = ""


@dataclass(frozen=True)
class Check:
    """One threshold of the export: `value` must be at least (or at most) `limit`."""

    name: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side; a value that is not a number never is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Verification:
    """Whether the personalisation survived in the artifact, measured in its own runtime.

    The adapter's change to the logits in the artifact against the change in the float model: `correlations`
    and `sizes` (ratio of the norms) per query, their mean and worst; KL divergence to the float personalised
    model in nats; share of equal top-1 tokens; perplexities. `scatter` holds pairs (float change, artifact's
    change) of single logits. `checks` are the thresholds that were applied.
    """

    checks: tuple[Check, ...]
    correlation_mean: float
    correlation_worst: float
    size_ratio: float
    kl: float | None = None
    top1_agreement: float | None = None
    perplexity_float: float | None = None
    perplexity_artifact: float | None = None
    correlations: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()
    scatter: tuple[tuple[float, float], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Report:
    """One person's run from examples to artifact.

    `created` is ISO 8601, `shipped` the role of the adapter that the artifact was made from (unless said, the
    synthetic one if there is one), `float_bytes` the size of the float model, `command` repeats the run.
    `withheld` is why there is no artifact, where the adapter was held back; `caveats` say so too.
    """

    title: str
    user: str
    task: TaskFacts
    created: str
    arms: tuple[Arm, ...] = ()
    shipped: Role | None = None
    queries: tuple[Query, ...] = ()
    shown_answers: int = 8
    curves: tuple[Curve, ...] = ()
    augmentation: Augmentation | None = None
    files: tuple[ExportedFile, ...] = ()
    float_bytes: int | None = None
    verification: Verification | None = None
    benchmarks: tuple[Result, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    caveats: tuple[str, ...] = ()
    withheld: str | None = None

    @property
    def benchmark(self) -> Result | None:
        """The measurement on the device where the bundle was verified."""
        return self.benchmarks[0] if self.benchmarks else None

    def arm(self, *roles: Role) -> Arm | None:
        """The arm of the first of `roles` that the report has."""
        return next((arm for role in roles for arm in self.arms if arm.role == role), None)

    def shipped_arm(self) -> Arm | None:
        """The float arm of the adapter that the artifact was made from."""
        return self.arm(self.shipped) if self.shipped else self.arm("synthetic", "adapter")
