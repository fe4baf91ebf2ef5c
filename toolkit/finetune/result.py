"""What came out of a fine-tuning, as a file and in plain words."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.files import write_atomic

if TYPE_CHECKING:
    from toolkit.finetune.learner import Training

REAL, SYNTHETIC = "real", "real+synthetic"
_REPORT = "training.json"


@dataclass(frozen=True)
class TrainedAdapter:
    """One adapter and how its training went; losses are means over answer tokens, in nats."""

    name: str
    examples: int
    steps: int
    step_losses: list[float]
    validation_losses: list[float]
    best_epoch: int | None
    packed: bool

    @classmethod
    def of(cls, name: str, examples: int, training: "Training") -> "TrainedAdapter":
        """The adapter `name`, trained on so many `examples`."""
        return cls(
            name,
            examples,
            training.steps,
            training.step_losses,
            training.validation_losses,
            training.best_epoch,
            training.packed,
        )


@dataclass(frozen=True)
class Finetuning:
    """The adapters of a run: which one was chosen and why.

    `same_answer`: all examples of the history have one and the same. `guard`: whether an adapter that is not
    better than the base is held back.
    """

    adapters: list[TrainedAdapter]
    chosen: str
    reason: str
    base_validation_loss: float | None
    validation_ids: list[str]
    cut: list[str]
    dropped: list[str]
    same_answer: bool = False
    guard: bool = True

    @property
    def best_validation_loss(self) -> float | None:
        """Lowest validation loss of the chosen adapter."""
        losses = next(a.validation_losses for a in self.adapters if a.name == self.chosen)
        return min(losses, default=None)

    @property
    def better_than_base(self) -> bool | None:
        """Whether the chosen adapter beats the base on the held-out slice; None where none was held out."""
        best = self.best_validation_loss
        return None if best is None or self.base_validation_loss is None else best < self.base_validation_loss

    @property
    def withheld(self) -> str | None:
        """Why the adapter is not shipped; None if it is."""
        if not self.guard or self.better_than_base is not False:
            return None
        return (
            "not shipped: on the held-out slice of the history the adapter is not better than the base model "
            f"(loss {self.best_validation_loss:.3f} against {self.base_validation_loss:.3f})"
        )

    def notes(self) -> list[str]:
        """What a reader of the result should know besides `withheld`, in sentences."""
        found = []
        if self.better_than_base is None:
            found.append(
                "No example was held out, so nothing says whether the adapter is better than the base model."
            )
        if self.better_than_base is False and not self.withheld:
            found.append(
                "On the held-out slice of the history the adapter is not better than the base model."
            )
        if self.same_answer:
            found.append("All examples have the same answer: the adapter learns to give it to everything.")
        if self.cut or self.dropped:
            found.append(
                f"Too long for finetune.max_length: {len(self.cut)} of the examples cut, "
                f"{len(self.dropped)} dropped."
            )
        if not all(adapter.packed for adapter in self.adapters):
            found.append("This architecture cannot be trained on packed sequences; padded batches were used.")
        return found


def write_finetuning(folder: Path, report: Finetuning) -> None:
    """Write `report` into `folder`."""
    write_atomic(folder / _REPORT, json.dumps(asdict(report), indent=1) + "\n")


def read_finetuning(folder: Path) -> Finetuning:
    """What `finetune` reported into `folder`."""
    data = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    data["adapters"] = [TrainedAdapter(**adapter) for adapter in data["adapters"]]
    return Finetuning(**data)


def adapter_folder(folder: Path, name: str) -> Path:
    """Where `finetune` put the adapter `name`."""
    return folder / name.replace("+", "-and-")
