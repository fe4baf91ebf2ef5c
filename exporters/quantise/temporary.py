"""What is done to a model for a while, and undone whatever happens."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Remove the hooks at the end."""
    kept = list(handles)
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()


@contextmanager
def restored(model: Any) -> Iterator[None]:
    """Give every parameter its own values back at the end."""
    before = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = before[name]
