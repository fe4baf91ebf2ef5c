"""What selection found: for the account of an augmentation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# In the order in which they are applied, after the filters of text.
MODEL_FILTERS = ("semantic_duplicate", "agreement", "style", "instruction", "difficulty", "distribution")


@dataclass(frozen=True)
class Judgement:
    """What one filter has to say.

    `refused`: place of a candidate -> why, the worst first. `note`: what it went by, or why it does not act.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    note: str = ""
    acts: bool = True

    @classmethod
    def idle(cls, note: str) -> "Judgement":
        """It does not act, and why."""
        return cls({}, note, acts=False)


@dataclass(frozen=True)
class Step:
    """One filter's part: how many candidates it `judged` and `refused`; `note` as in Judgement."""

    filter: str
    judged: int
    refused: int
    acts: bool
    note: str


@dataclass(frozen=True)
class Distance:
    """How far a set of synthetic examples is from the history.

    `mmd2`: the unbiased estimate of the squared maximum mean discrepancy, which is negative where the two are
    closer than chance; `p`: the share of random divisions of the same examples that are as far apart.
    """

    mmd2: float
    p: float


@dataclass(frozen=True)
class Leakage:
    """The cosine of examples to the held-out query that they are most like: the highest, and the median.

    What `history` has is what is usual for this person.
    """

    highest: float
    median: float
    history_highest: float
    history_median: float


@dataclass(frozen=True)
class Selection:
    """The filters' account.

    `before` and `after`: all candidates, and those kept, against the history. `points`: the first two
    principal components of every example's vector, by what it is (history, kept, refused). `scores`: id of a
    candidate -> its figures (ifd, difficulty, confidence, variability).
    """

    embedding: str
    candidates: int
    kept: int
    steps: list[Step] = field(default_factory=list)
    before: Distance | None = None
    after: Distance | None = None
    leakage: Leakage | None = None
    points: dict[str, list[list[float]]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
