"""What EdgePLM writes beside an adapter: the base that it belongs to, and how it is asked.

A file of its own in PEFT's folder, which PEFT leaves alone: PEFT's configuration names a base, but a name
says nothing of the weights behind it. Adapters trained elsewhere have none, and are accepted without.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.errors import AdapterError
from toolkit.files import write_atomic
from toolkit.json_dataclass import read_dataclass

RECORD = "edgeplm_adapter.json"


@dataclass(frozen=True)
class AdapterRecord:
    """The base's source and its weights' sha256; how many history examples go before each query.

    `base_sha256` is of the weights that were trained on: with a task adapter merged in, if there was one.
    """

    base: str
    base_sha256: str
    history_in_prompt: int = 0


def write_record(folder: Path, record: AdapterRecord) -> None:
    """Write `record` into an adapter's folder."""
    write_atomic(folder / RECORD, json.dumps(asdict(record), indent=1) + "\n")


def read_record(folder: Path) -> AdapterRecord | None:
    """The record in an adapter's folder, None if there is none. Raises AdapterError if it is damaged."""
    path, mend = folder / RECORD, "Delete this file: the adapter is then taken for one trained elsewhere"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AdapterError(f"is not JSON ({error})", where=str(path), mend=mend) from error
    record: AdapterRecord = read_dataclass(
        AdapterRecord, found, where=str(path), mend=mend, error=AdapterError
    )
    return record
