"""Fixtures that several test files share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from teacher_server import KEY, Server


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread: a tiny model's layers take less time than waking a second one does."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts servers that answer by a script, with a key in the environment; they are closed afterwards."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    started: list[Server] = []

    def start(script: Any) -> Server:
        started.append(Server(script))
        return started[-1]

    yield start
    for server in started:
        server.close()
