"""The audit file: every request body that left the machine, byte for byte."""

import os
from pathlib import Path
from threading import Lock

from toolkit.errors import EdgePLMError


class AuditFile:
    """Appends request bodies, each on a line of its own, before they are sent.

    A body is on disk before the first of its bytes leaves, so the file may hold one that did not arrive and
    never lacks one that did. Retries are requests of their own. Headers are not in it: they hold the key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()

    def write(self, body: bytes) -> None:
        """Append a body; EdgePLMError if that fails, and then it must not be sent."""
        if b"\n" in body:
            raise EdgePLMError("a request body with a line break cannot be audited", where=str(self.path))
        try:
            with self._lock:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "ab") as file:
                    file.write(body + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise EdgePLMError(
                f"cannot be written ({error.strerror}), so nothing is sent",
                where=str(self.path),
                mend="Make room for it, or choose another output folder",
            ) from error
