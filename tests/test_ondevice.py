"""Fine-tuning on a device behind a real sshd on loopback; its environment starts this machine's Python."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from sshd import Sshd, needs_sshd
from tiny import tiny_base

from runtimes.devices.remote import RemoteDevice
from runtimes.devices.ssh import CONFIG_VARIABLE
from toolkit.errors import DeviceError, TrainingError
from toolkit.finetune import adapter_folder, finetune, read_finetuning
from toolkit.ondevice import finetune_on_device
from toolkit.profiles import read_profile
from toolkit.progress import SILENT
from toolkit.recipe import recipe_from_dict
from toolkit.tasks import load_task

pytestmark = needs_sshd
ROWS = [{"id": str(n), "input": f"This film is number {n}", "output": str(1 + n % 5)} for n in range(12)]


@pytest.fixture
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def trainer(sshd: Sshd, device: RemoteDevice) -> RemoteDevice:
    """The device with the environment `training`, whose Python is that of the tests."""
    folder = sshd.home / ".edgeplm/environments/training"
    folder.mkdir(parents=True)
    (folder / "python").write_text(
        f'#!/bin/sh\nexport OMP_NUM_THREADS=1 PYTHONSAFEPATH=1\nexec {sys.executable} -P "$@"\n'
    )
    return device


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "ann's films.jsonl"
    path.write_text("".join(json.dumps({"user": "ann", "split": "history", **row}) + "\n" for row in ROWS))
    return path


def recipe_for(profile: str | Path, base, **finetuning):
    settings = {"rank": 2, "epochs": 1, "guard": False, "choose": "real", **finetuning}
    document = {"task": "lamp-3", "profile": str(profile), "model": str(base.folder), "finetune": settings}
    return recipe_from_dict(document, "test")


def personal_files(sshd: Sshd) -> list[Path]:
    """What of a person is anywhere below EdgePLM's folder on the device."""
    files = (path for path in (sshd.home / ".edgeplm").rglob("*") if path.is_file() and path.suffix != ".pyz")
    return [path for path in files if b"This film is number" in path.read_bytes()]


def test_the_adapter_is_the_one_that_is_trained_here(sshd, trainer, base, profile, tmp_path):
    recipe = recipe_for(profile, base)
    found = finetune_on_device(trainer, base, recipe, str(tmp_path / "there"), progress=SILENT)
    assert found["adapter"] == str(tmp_path / "there" / "real")
    task = load_task("lamp-3")
    finetune(base, read_profile(profile, task), task, recipe.finetune, tmp_path / "here")
    here, there = (read_finetuning(tmp_path / name) for name in ("here", "there"))
    assert there.adapters[0].step_losses == pytest.approx(here.adapters[0].step_losses, rel=1e-4)
    weights = adapter_folder(tmp_path / "there", there.chosen) / "adapter_model.safetensors"
    assert weights.stat().st_size > 0
    assert not personal_files(sshd)
    assert not list((sshd.home / ".edgeplm/jobs").iterdir())


def test_examples_and_adapter_may_stay_on_the_device(sshd, trainer, base, profile, tmp_path):
    there = sshd.home / "my own.jsonl"
    profile.rename(there)
    out = sshd.home / "my adapter"
    found = finetune_on_device(
        trainer, base, recipe_for("device:my own.jsonl", base), "device:my adapter", progress=SILENT
    )
    assert found["adapter"] == str(out / "real")
    assert (out / "real" / "adapter_config.json").is_file()
    with pytest.raises(TrainingError, match=r"--force|exists"):
        finetune_on_device(
            trainer, base, recipe_for(f"device:{there}", base), f"device:{out}", progress=SILENT
        )


def test_the_base_is_pushed_once(sshd, trainer, base, profile, tmp_path):
    labels = []

    class Watching:
        def step(self, label, total=None, unit=""):
            labels.append(label)
            return SILENT.step(label)

    for name in ("one", "two"):
        finetune_on_device(
            trainer, base, recipe_for(profile, base), str(tmp_path / name), progress=Watching()
        )
    assert len([label for label in labels if label.startswith("push the base model")]) == 1
    assert any(label.startswith(f"{trainer.name}: Fine-tuning") for label in labels)


def test_what_the_training_says_is_the_error(sshd, trainer, base, tmp_path):
    with pytest.raises(TrainingError) as caught:
        finetune_on_device(
            trainer, base, recipe_for("device:/no/such.jsonl", base), str(tmp_path / "out"), progress=SILENT
        )
    assert f"device {trainer.name}, step fine-tune: /no/such.jsonl" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list((sshd.home / ".edgeplm/jobs").iterdir())


def test_a_device_that_is_not_prepared_says_how(device, base, profile, tmp_path):
    with pytest.raises(DeviceError, match=r"devices prepare .* --with-training"):
        finetune_on_device(device, base, recipe_for(profile, base), str(tmp_path / "out"), progress=SILENT)


def trainings(sshd: Sshd) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if b".pyz" in words and b"finetune" in words and os.fsencode(sshd.home) in words:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_cut_connection_ends_the_training(sshd, trainer, base, profile, tmp_path):
    def cut() -> None:
        deadline = time.monotonic() + 120
        while not trainings(sshd) and time.monotonic() < deadline:
            time.sleep(0.05)
        sshd.cut()

    threading.Thread(target=cut, daemon=True).start()
    with pytest.raises(DeviceError, match=r"the connection was cut|refuses"):
        finetune_on_device(
            trainer, base, recipe_for(profile, base, epochs=500), str(tmp_path / "out"), progress=SILENT
        )
    deadline = time.monotonic() + 30
    while trainings(sshd):
        assert time.monotonic() < deadline, "it trains on without anybody who waits for it"
        time.sleep(0.1)
    assert not (tmp_path / "out").exists()


def test_the_command_shows_what_the_device_found(sshd, trainer, base, profile, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from toolkit.cli import cli

    monkeypatch.setenv(CONFIG_VARIABLE, str(sshd.config))
    words = [
        "finetune", "--device", sshd.name, "--profile", str(profile), "--task", "lamp-3",
        "--model", str(base.folder), "--out", str(tmp_path / "out"), "--set", "finetune.epochs=1",
        "--set", "finetune.guard=false",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None, done.exception
    assert "training loss" in done.stdout
    assert (tmp_path / "out" / "real" / "adapter_config.json").is_file()
