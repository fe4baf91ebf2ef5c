"""What can go wrong around a training: odd histories, full disks, two at once, losses that are no numbers."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import tiny_base
from toy import HISTORY, PROFILE, RECIPE, TASK, examples

from toolkit.errors import EdgePLMError, TrainingError
from toolkit.files import held
from toolkit.finetune import adapter_folder, finetune, read_finetuning, split_history
from toolkit.models import BaseModel, load_model
from toolkit.profiles import Profile, write_profile

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_history_of_one_example_is_trained_on_and_not_judged(base: BaseModel, tmp_path: Path) -> None:
    report = finetune(
        base, replace(PROFILE, history=HISTORY[:1]), TASK, replace(RECIPE, epochs=2), tmp_path / "out"
    )
    assert (report.adapters[0].examples, report.validation_ids) == (1, [])
    assert (report.better_than_base, report.withheld) == (None, None)
    assert report.notes() == [
        "No example was held out, so nothing says whether the adapter is better than the base model."
    ]


def test_one_and_the_same_answer_throughout_is_said(base: BaseModel, tmp_path: Path) -> None:
    report = finetune(base, PROFILE, TASK, RECIPE, tmp_path / "out", seed=3)
    assert report.notes() == [
        "All examples have the same answer: the adapter learns to give it to everything."
    ]
    assert read_finetuning(tmp_path / "out") == report
    other = replace(PROFILE, history=(*HISTORY[:7], replace(HISTORY[7], output="no")))
    report = finetune(base, other, TASK, replace(RECIPE, epochs=1), tmp_path / "other", seed=3)
    assert not report.same_answer


def contrary(seed: int) -> Profile:
    """Somebody whose held-out examples have another answer than all that are trained on."""
    history = examples("no, never", 40)
    _, held_out = split_history(history, 0.25, seed)
    answers = {example.id: "QQZ ZQ XX QZX ZZ" for example in held_out}
    return replace(
        PROFILE,
        history=tuple(replace(each, output=answers.get(each.id, each.output)) for each in history),
    )


HARMED = replace(RECIPE, epochs=1, batch_size=1, validation=0.25)


def test_an_adapter_that_is_not_better_than_the_base_is_withheld(base: BaseModel, tmp_path: Path) -> None:
    report = finetune(base, contrary(0), TASK, HARMED, tmp_path / "out", seed=0)
    assert report.better_than_base is False
    assert str(report.withheld).startswith("not shipped: on the held-out slice of the history the adapter is")
    assert report.notes() == []
    unguarded = finetune(
        base, contrary(0), TASK, replace(HARMED, guard=False), tmp_path / "unguarded", seed=0
    )
    assert (unguarded.better_than_base, unguarded.withheld) == (False, None)
    assert unguarded.notes() == [
        "On the held-out slice of the history the adapter is not better than the base model."
    ]


def test_a_model_that_cannot_pack_is_said() -> None:
    from toolkit.finetune.result import Finetuning, TrainedAdapter

    adapter = TrainedAdapter("real", 4, 1, [1.0], [1.0], 1, packed=False)
    report = Finetuning([adapter], "real", "", 2.0, ["x"], ["c"], ["d", "e"])
    assert report.notes() == [
        "Too long for finetune.max_length: 1 of the examples cut, 2 dropped.",
        "This architecture cannot be trained on packed sequences; padded batches were used.",
    ]


def test_a_loss_that_is_no_number_leaves_the_last_good_adapter_on_disk(
    base: BaseModel, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, epochs=2, batch_size=1, validation=0.0)
    with pytest.MonkeyPatch.context() as patch:
        import toolkit.finetune.layers as module

        honest, calls = module.people_losses, []

        def failing(model: object, segments: list[object]) -> torch.Tensor:
            calls.append(segments)
            losses = honest(model, segments)
            return losses * float("nan") if len(calls) == 6 else losses

        patch.setattr(module, "people_losses", failing)
        with pytest.raises(TrainingError) as error:
            finetune(base, PROFILE, TASK, recipe, tmp_path / "out", seed=3)
    kept = adapter_folder(tmp_path / "out-stopped", "real")
    assert f"The last good adapter is in {kept}. Lower finetune.learning_rate" in str(error.value)
    assert "step 6 of 16" in str(error.value)
    assert left_in(tmp_path) == ["out-stopped"]
    prompt = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        found = PeftModel.from_pretrained(load_model(base), str(kept))(prompt).logits
        assert found.isfinite().all()
        assert (found - load_model(base)(prompt).logits).abs().max() > 1e-3


def test_the_second_of_two_on_one_folder_is_refused_at_once(base: BaseModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import sys\nfrom pathlib import Path\nfrom toolkit.files import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(EdgePLMError, match=r"out: another process is writing it\. Wait for it, or"):
            finetune(base, PROFILE, TASK, RECIPE, out, seed=3)
        other.kill()
    finetune(base, PROFILE, TASK, replace(RECIPE, epochs=1), out, seed=3)  # a killed one holds nothing
    assert left_in(tmp_path) == ["out"]


def test_a_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held(tmp_path / "out"):
            _ = 1 / 0
    assert left_in(tmp_path) == []


def test_a_full_disk_leaves_nothing_half_written(base: BaseModel, tmp_path: Path) -> None:
    """No file may grow beyond a few kilobytes: as a full disk does, it ends a write in the middle."""
    write_profile(PROFILE, tmp_path / "anna.jsonl")
    line = command(tmp_path / "anna.jsonl", base, tmp_path / "out", "--set=finetune.epochs=1")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        line, preexec_fn=limit, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Nothing half-written was kept" in done.stderr
    assert left_in(tmp_path) == ["anna.jsonl"]


def command(profile: Path, base: BaseModel, out: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "toolkit", "finetune", "--task", "rewrite", "--profile", str(profile)]
    return [*start, "--model", str(base.folder), "--out", str(out), *more]


def test_the_command_ends_with_3_if_the_adapter_is_withheld(base: BaseModel, tmp_path: Path) -> None:
    write_profile(contrary(0), tmp_path / "anna.jsonl")
    settings = [
        f"--set=finetune.{name}={value}"
        for name, value in HARMED.as_dict().items()
        if name in ("rank", "alpha", "learning_rate", "epochs", "batch_size", "validation")
    ]
    line = command(tmp_path / "anna.jsonl", base, tmp_path / "out", *settings)
    done = subprocess.run([*line, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["withheld"].startswith("not shipped: ")
    done = subprocess.run([*line, "--force"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "The adapter is not shipped: on the held-out slice of the history" in done.stderr
    assert "Note:" not in done.stderr  # said once
