"""The agent's output as samples, and whether the agent came to its end. The same for every device."""

import json
import signal
from collections.abc import Sequence
from typing import Any

from toolkit.errors import DeviceError

Sample = dict[str, Any]


def parse_sample(line: str) -> Sample:
    """The sample on a line; anything else a program printed is kept as noise."""
    try:
        sample = json.loads(line)
    except ValueError:
        sample = None
    if isinstance(sample, dict) and isinstance(sample.get("kind"), str):
        return sample
    return {"kind": "noise", "text": line.rstrip("\r\n")}


def step_of(samples: Sequence[Sample]) -> str:
    """The step that was under way when the samples ended."""
    return next((str(s.get("name")) for s in reversed(samples) if s["kind"] == "step"), "start")


def check_end(samples: list[Sample], status: int, stderr: Sequence[str], *, device: str, late: str) -> None:
    """Raise DeviceError unless the agent came to its end; a crash after that is only noted.

    `status` is the agent's exit status, negative for a signal; `late` says that it was ended for taking too
    long, and is "" otherwise; `stderr` holds its last lines.
    """
    place = f"device {device}, step {step_of(samples)}"
    fault = next((s for s in samples if s["kind"] == "error"), None)
    if fault is not None:
        raise DeviceError(str(fault.get("message", "unknown")), where=place)
    if any(sample["kind"] == "done" for sample in samples):
        if status != 0:
            samples.append({"kind": "noise", "text": f"after it was done, the agent {_ended(status)}"})
        return
    last = "".join(f"\n  {line}" for line in stderr) or "\n  (nothing on standard error)"
    memory = -status == signal.SIGKILL and not late
    raise DeviceError(
        f"{late or f'the agent {_ended(status)}'}; its last lines:{last}",
        where=place,
        mend="Most likely the machine ran out of memory: try a smaller bundle" if memory else None,
    )


def _ended(status: int) -> str:
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
    return f"exited with status {status}"
