"""All that `edgeplm devices` shows of a device: its facts, its state just now, and what it can run."""

import shutil
from dataclasses import replace
from importlib import util
from pathlib import Path

from runtimes.facts import Facts, machine_facts, said
from runtimes.sensors import hottest, sensors
from runtimes.silicon import clusters, emulated, soc

READY = "ready"
RUNTIMES = {"onnxruntime-genai": "onnxruntime_genai", "executorch": "executorch"}
_MACHINES = ("aarch64", "x86_64")


def survey_here() -> Facts:
    """The facts of this machine, where the runtimes are those of this Python."""
    root = Path("/")
    runtimes = {
        name: READY if util.find_spec(module) else f"not installed: pip install {name}"
        for name, module in RUNTIMES.items()
    }
    return replace(_survey(root), free_bytes=shutil.disk_usage(Path.home()).free, runtimes=runtimes)


def survey_snapshot(root: Path, free: int | None) -> Facts:
    """The facts of the device whose files lie below `root`, with `free` bytes on its disk."""
    facts = _survey(root)
    return replace(
        facts, free_bytes=free, runtimes={name: _readiness(root, facts, name) for name in RUNTIMES}
    )


def _survey(root: Path) -> Facts:
    facts = machine_facts(root)
    reading = sensors(root)
    return replace(
        facts,
        soc=soc(root),
        clusters=clusters(root),
        emulated=emulated(root, facts.machine),
        temperature=hottest(reading),
        governors=sorted(set(filter(None, reading["governors"] or []))),
    )


def _readiness(root: Path, facts: Facts, runtime: str) -> str:
    if (root / "edgeplm/environments" / runtime).exists():
        return READY
    if runtime == "executorch" and said(root, "app"):
        return f"{READY} (app)"
    if facts.machine not in _MACHINES or said(root, "bits") == "32":
        return f"needs a 64-bit system, this is {facts.machine} with {said(root, 'bits') or 32} bits"
    return "not prepared"
