"""The record of a teacher's answers: each is on disk before it is used, so that none is paid for twice."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.augment.teachers import Completion, Message, Schema


def request_key(
    teacher: str, messages: Sequence[Message], seed: int, temperature: float, schema: Schema | None = None
) -> str:
    """Hex sha256 of everything that an answer depends on."""
    request = {
        "teacher": teacher,
        "messages": list(messages),
        "seed": seed,
        "temperature": temperature,
        "schema": schema,
    }
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


class Lines:
    """JSON objects, one a line, each on the disk when `append` returns; without a path in no file at all.

    A line that cannot be read, such as the last one of a process that was killed, counts as not there.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        content = path.read_bytes() if path is not None and path.exists() else b""
        self._ends_torn = bool(content) and not content.endswith(b"\n")
        self.rows: list[dict[str, Any]] = []
        for line in content.split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                self.rows.append(row)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row through to the disk."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(row, ensure_ascii=True) + "\n"
        with open(self._path, "ab") as file:
            file.write((b"\n" if self._ends_torn else b"") + line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._ends_torn = False


class AnswerRecord:
    """Answers by request key, in memory and, if there is a path, on disk."""

    def __init__(self, path: Path | None) -> None:
        self._lines = Lines(path)
        self._answers: dict[str, Completion] = {}
        for row in self._lines.rows:
            self._read(row)

    def get(self, key: str) -> Completion | None:
        """The answer to a request, if there is one."""
        return self._answers.get(key)

    def add(self, key: str, answer: Completion) -> None:
        """Write an answer through to the disk."""
        self._answers[key] = answer
        self._lines.append({"key": key, **asdict(answer)})

    def _read(self, row: Mapping[str, Any]) -> None:
        try:
            answer = Completion(
                text=str(row["text"]),
                prompt_tokens=int(row["prompt_tokens"]),
                completion_tokens=int(row["completion_tokens"]),
                truncated=bool(row["truncated"]),
                notes=tuple(map(str, row["notes"])),
            )
            self._answers[str(row["key"])] = answer
        except (ValueError, KeyError, TypeError):
            return
