"""What one worker does: a base in memory, and batch after batch of people trained on it."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ModelError
from toolkit.finetune import adapter_folder
from toolkit.finetune.people import Outcome, PeopleTrainer
from toolkit.fleet.bundles import open_base, prepare_from
from toolkit.fleet.plan import Person
from toolkit.fleet.result import Done
from toolkit.fleet.store import Store
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import Task


@dataclass(frozen=True)
class Job:
    """What all workers of a fleet are told: the base and its hash, the task, the settings, where to keep."""

    model: str
    model_sha256: str
    task: Task
    finetune: FinetuneRecipe
    seed: int
    out: str
    slots: int
    task_adapter: Path | None = None


class Worker:
    """Trains people for `job`. Raises ModelError if this machine's base is not the driver's."""

    def __init__(self, job: Job) -> None:
        self._store = Store(job.out)
        base = open_base(job.model, job.task_adapter)
        if base.sha256 != job.model_sha256:
            raise ModelError(
                "has other weights on this worker than on the driver",
                where=job.model,
                mend="Name a revision, or put the same folder on every machine",
            )
        prepare = prepare_from(self._store) if job.finetune.quantization_aware else None
        self._trainer = PeopleTrainer(
            base, job.task, job.finetune, prepare=prepare, seed=job.seed, slots=job.slots
        )

    def run(self, batch: Sequence[Person]) -> Iterator[Done]:
        """Train a batch; each person is kept before they are reported. OSError if they cannot be kept."""
        by_user = {person.profile.user_id: person for person in batch}
        with tempfile.TemporaryDirectory(prefix="edgeplm-fleet-") as name:
            here = Path(name)
            profiles = [person.profile for person in batch]
            for outcome in self._trainer.train(profiles, lambda profile: here / by_user[profile.user_id].key):
                yield self._keep(by_user[outcome.user_id], outcome)

    def _keep(self, person: Person, outcome: Outcome) -> Done:
        if outcome.report is None:
            return Done(person.key, outcome.user_id, str(outcome.error))
        report = outcome.report
        files = [path for path in outcome.folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        adapter = adapter_folder(outcome.folder, report.chosen).name
        mark = {
            "user_id": outcome.user_id,
            "adapter": adapter,
            "examples": len(person.profile.history),
            "base_validation_loss": report.base_validation_loss,
            "best_validation_loss": report.best_validation_loss,
            "better_than_base": report.better_than_base,
            "bytes": size,
        }
        self._store.put(person.key, person.digest, outcome.folder, mark)
        return Done(person.key, outcome.user_id, None, report.better_than_base, size)
