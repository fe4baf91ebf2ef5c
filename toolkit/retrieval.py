"""The examples of a person's history that are most like a query, by BM25."""

import logging
import re
from collections.abc import Callable, Sequence

from toolkit.profiles import Example
from toolkit.tasks import Task


def retrieve(
    query: str,
    history: Sequence[Example],
    k: int,
    *,
    document: Callable[[Example], str] | None = None,
) -> list[Example]:
    """The `k` examples of `history` (oldest first) most similar to `query`, most similar first.

    Okapi BM25 in Lucene's form (k1 1.5, b 0.75) over lower-cased words. Among equals the more recent comes
    first, so a query that shares no word with the history gets the latest examples. `document` says what
    is searched in an example: its input, unless given.
    """
    if k <= 0 or not history:
        return []
    text_of = document or (lambda example: example.input)
    scores = _bm25_scores(_words(query), [_words(text_of(example)) for example in history])
    order = sorted(range(len(history)), key=lambda index: (-scores[index], -index))
    return [history[index] for index in order[:k]]


def retrieve_for(task: Task, text: str, history: Sequence[Example], k: int) -> list[Example]:
    """As `retrieve`, searching what the task searches: its `retrieval.query` in its `retrieval.document`."""
    return retrieve(task.search_text(text), history, k, document=task.search_document)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _bm25_scores(query: list[str], documents: list[list[str]]) -> list[float]:
    if not query or not any(documents):  # bm25s cannot index or search an empty vocabulary
        return [0.0] * len(documents)
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG

    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
    index.index(documents, show_progress=False)
    return [float(score) for score in index.get_scores(query)]
