"""How much of a person's adapter is left in an artifact, over many people.

    python -m benchmarks.studies.survival --out DIR --people FILE --task NAME --form attached --aware

Every person gets an adapter trained on their real examples alone. `merged`: it is merged, quantised with a
calibration on this person, and compared with a base twin that was calibrated on the same text. `attached`:
one base, calibrated on the histories of all of them, serves everybody. `--aware` trains on that base as it
is quantised. The definitions of correlation, size and KL are in `exporters.verify`; the prompts are each
person's held-out queries, which take part in nothing else. What is done is kept in DIR, so that a killed
study goes on; adapters that do not know of an export serve every form and preset that is studied there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.people import Person, read_people
from exporters.adapters import add_adapter, list_adapters
from exporters.quantise.calibrate import Windows, apply_weights
from exporters.quantise.grid import QuantisedWeight
from exporters.quantise.store import read_weights, write_weights
from toolkit.bundling import answer_bundle, base_weights, calibration, make_bundle, verify_bundle
from toolkit.cli import run_to_exit
from toolkit.files import write_atomic
from toolkit.finetune import adapter_folder, finetune, open_chat, read_finetuning
from toolkit.models import BaseModel, resolve_model
from toolkit.progress import Progress, terminal_progress
from toolkit.quality import answer_float, prompt_limit
from toolkit.recipe import ExportRecipe, FinetuneRecipe, VerifyRecipe

_SHARED = "shared-weights.safetensors"


@dataclass(frozen=True)
class Settings:
    """What is compared: how adapters are trained and shipped."""

    export: ExportRecipe
    finetune: FinetuneRecipe
    verify: VerifyRecipe

    @property
    def name(self) -> str:
        """Folder name of its results."""
        aware = "-aware" if self.finetune.quantization_aware else ""
        return f"{self.export.runtime}-{self.export.preset}-{self.export.form}{aware}"


def survival_study(
    base: BaseModel, people: Sequence[Person], settings: Settings, out: Path, progress: Progress
) -> list[dict[str, Any]]:
    """One result a person: survival, and the task's metrics of base, float adapter and artifact."""
    folder = out / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    shared = _shared_base(base, people, settings, folder, progress)
    results = []
    for person in people:
        path = folder / f"{person.profile.user_id}.json"
        if not path.exists():
            found = _one(base, person, settings, folder, shared, progress)
            write_atomic(path, json.dumps(found, indent=1) + "\n")
        results.append(json.loads(path.read_text(encoding="utf-8")))
    return results


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over people with bootstrap intervals; the gain kept is a ratio of sums over people."""
    figures = {
        key: _interval([result["verification"]["survival"][key] for result in results])
        for key in ("correlation_mean", "correlation_worst", "size_mean", "kl_mean", "same_top_mean")
    }
    kept = {}
    for metric in sorted({result["metric"] for result in results}):
        rows = [result["metrics"] for result in results if result["metric"] == metric]
        base, exact, artifact = (
            np.array([row[arm][metric] for row in rows]) for arm in ("base", "float", "artifact")
        )
        gain = float((exact - base).sum())
        kept[metric] = {
            "people": len(rows),
            "base": float(base.mean()),
            "float": float(exact.mean()),
            "artifact": float(artifact.mean()),
            "gain_kept": float((artifact - base).sum()) / gain if gain else None,
        }
    return {"people": len(results), "survival": figures, "metrics": kept}


@dataclass(frozen=True)
class _SharedBase:
    """One base for everybody: what it was calibrated on, and its weights."""

    windows: Windows | None
    weights: dict[str, QuantisedWeight]


def _shared_base(
    base: BaseModel, people: Sequence[Person], settings: Settings, folder: Path, progress: Progress
) -> _SharedBase | None:
    """The base calibrated on everybody's history; None where each person has a base of their own."""
    if settings.export.form != "attached":
        return None
    windows = _windows(base, people, settings, progress)
    path = folder / _SHARED
    if not path.exists():
        write_weights(path, base_weights(base, settings.export, windows, progress))
    return _SharedBase(windows, read_weights(path))


def _windows(
    base: BaseModel, people: Sequence[Person], settings: Settings, progress: Progress
) -> Windows | None:
    task = people[0].task
    return calibration(settings.export, base, task, [person.profile for person in people], progress=progress)


def _one(
    base: BaseModel,
    person: Person,
    settings: Settings,
    folder: Path,
    shared: _SharedBase | None,
    progress: Progress,
) -> dict[str, Any]:
    task, profile = person.task, person.profile
    windows = shared.windows if shared else _windows(base, [person], settings, progress)
    weights = shared.weights if shared else None
    aware = settings.finetune.quantization_aware
    if weights is None and aware:
        weights = base_weights(base, settings.export, windows, progress)
    trained = (folder if aware else folder.parent) / "adapters" / profile.user_id

    def prepare(model: Any) -> None:
        if weights is not None and aware:
            apply_weights(model, weights)

    try:
        report = read_finetuning(trained)
    except FileNotFoundError:
        report = finetune(
            base, profile, task, settings.finetune, trained, prepare=prepare, force=True, progress=progress
        )
    adapter = adapter_folder(trained, report.chosen)
    bundle = folder / ("bundle" if shared else f"bundle-{profile.user_id}")
    if shared and bundle.exists():
        add_adapter(bundle, profile.user_id, adapter, force=True)
    else:
        make_bundle(
            base, adapter, settings.export, bundle, name=profile.user_id, windows=windows,
            weights=shared.weights if shared else None,
            task=task, force=True, progress=progress,
        )  # fmt: skip
    found = verify_bundle(
        bundle, base, adapter, settings.verify, task, profile, windows=windows, progress=progress
    )
    attached = any(entry.kind == "attached" for entry in list_adapters(bundle))
    artifact = answer_bundle(
        bundle, "local", task, profile, adapter=profile.user_id if attached else None, progress=progress
    )
    arms = answer_float(
        base, open_chat(base), task, profile, {"float": adapter}, retrieved=0,
        limit=prompt_limit(task, settings.export.context_length), progress=progress,
    )  # fmt: skip
    return {
        "user": profile.user_id,
        "task": task.name,
        "metric": task.primary_metric,
        "examples": len(profile.history),
        "queries": len(profile.queries),
        "validation_loss": [report.base_validation_loss, report.best_validation_loss],
        "verification": found,
        "metrics": {"base": arms[0].metrics, "float": arms[1].metrics, "artifact": artifact.metrics},
    }


def _interval(values: Sequence[float], draws: int = 2000) -> dict[str, float]:
    """Mean, worst, and the 95 % interval of the mean by bootstrap over people."""
    data = np.array(values)
    random = np.random.RandomState(0)
    means = data[random.randint(0, len(data), (draws, len(data)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(data.mean()),
        "low": float(low),
        "high": float(high),
        "smallest": float(data.min()),
        "largest": float(data.max()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study; errors a user can mend are one line on standard error."""
    run_to_exit(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    """Parse the command line, run, and write the summary to standard output as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=Path, help="a profile file; without it, the sample users")
    parser.add_argument("--task", default="lamp-3")
    parser.add_argument("--users", type=int, default=30, help="how many people of the file, first come")
    parser.add_argument("--least", type=int, default=8, help="least history of a person who takes part")
    parser.add_argument("--model", default=None)
    parser.add_argument("--form", choices=("merged", "attached"), default="merged")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--aware", action="store_true", help="train on the quantised base")
    given = parser.parse_args(arguments)
    progress = terminal_progress()
    from toolkit.models import DEFAULT_SOURCE

    base = resolve_model(given.model or DEFAULT_SOURCE, progress)
    settings = Settings(
        ExportRecipe(form=given.form, preset=given.preset, runtime=given.runtime),
        FinetuneRecipe(epochs=given.epochs, quantization_aware=given.aware, choose="real"),
        replace(VerifyRecipe(), prompts=given.prompts),
    )
    people = read_people(given.people, given.task, given.users, given.least)
    results = survival_study(base, people, settings, given.out, progress)
    found = summary(results)
    write_atomic(given.out / f"{settings.name}.json", json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
