"""The record of a teacher's answers: each is on disk before it is used, so that none is paid for twice."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

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


class AnswerRecord:
    """Answers by request key, in memory and, if there is a path, as JSON lines on disk.

    A line that cannot be read, such as the last one of a process that was killed, counts as not there.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._answers: dict[str, Completion] = {}
        self._ends_torn = False
        if path is not None and path.exists():
            content = path.read_bytes()
            self._ends_torn = bool(content) and not content.endswith(b"\n")
            for line in content.split(b"\n"):
                self._read(line)

    def get(self, key: str) -> Completion | None:
        """The answer to a request, if there is one."""
        return self._answers.get(key)

    def add(self, key: str, answer: Completion) -> None:
        """Write an answer through to the disk."""
        self._answers[key] = answer
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, **asdict(answer)}, ensure_ascii=True) + "\n"
        with open(self._path, "ab") as file:
            file.write((b"\n" if self._ends_torn else b"") + line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._ends_torn = False

    def _read(self, line: bytes) -> None:
        try:
            row = json.loads(line)
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
