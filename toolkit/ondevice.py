"""Fine-tuning on the device: the program goes to the person's examples, which need not leave it.

The device has the environment `training` (`edgeplm devices prepare DEVICE --with-training`). The base model
is pushed once. What is of one person lies in a folder of its own while the training runs, and goes with it.
"""

import json
import secrets
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import yaml

from runtimes.devices.push import pull_file, push_files
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.shell import split_status
from runtimes.devices.store import BUSY, LOCK, Item, Store, one_line, who
from runtimes.provision.program import place_program
from toolkit.errors import EdgePLMError, TrainingError
from toolkit.files import sha256_of, staged_directory
from toolkit.models import BaseModel
from toolkit.progress import Progress
from toolkit.progress_lines import LINES, Follower
from toolkit.recipe import Recipe

# Before a path that is one of the device's own.
THERE = "device:"
_STEP = "fine-tune"
_PREPARED = '[ -f "$1/environments/training/python" ]'
# Whoever holds the device trains: other jobs are those of a training whose connection was cut.
_CLEAN = 'rm -rf "$1/jobs"'
_JOB = 'cd "$1" && mkdir -p jobs && umask 077 && mkdir "jobs/$2" && cat >"jobs/$2/recipe.yaml"'
_WRITE = 'umask 077; cat >"$1"'
_REMOVE = 'rm -rf "$1/jobs/$2"'
_LIST = 'cd "$1" && find . -type f'
# $1 root, $2 who, $3 job's folder, $4 EdgePLM, $5 output folder, then further arguments. The training ends
# with the connection: a reader of the standard input ends it, and it in turn ends the reader.
_RUN = (
    LOCK
    + f"""
root=$1 job=$3 program=$4 out=$5; shift 5
export EDGEPLM_CACHE="$job/cache" EDGEPLM_PROGRESS={LINES} HF_HUB_OFFLINE=1
exec 3<&0
sh "$root/environments/training/python" "$program" finetune --recipe "$job/recipe.yaml" \\
  --out "$out" --json "$@" 3<&- </dev/null &
training=$!
{{ cat <&3; kill "$training"; }} >/dev/null 2>&1 9>&- &
reader=$!
wait "$training"; status=$?
kill "$reader" 2>/dev/null
exit "$status"
}} 9>>"$1/lock"
"""
)
_WITHHELD = 3
_LINES_KEPT = 12


def finetune_on_device(
    device: RemoteDevice,
    base: BaseModel,
    recipe: Recipe,
    out: str,
    *,
    synthetic: Path | None = None,
    force: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Train the recipe's adapters on `device` and return what `edgeplm finetune --json` says there.

    The recipe's profile and `out` are paths of this machine, or of the device if they begin with `device:`.
    An adapter that is trained for a folder of this machine is copied there, whole or not at all. Raises
    DeviceError with the device and the step, and TrainingError with what the training said.
    """
    store = device.store
    if store.shell.run(_PREPARED, store.root, step=_STEP).status != 0:
        raise store.shell.fault(
            _STEP,
            "is not prepared for training",
            f"Prepare it: `edgeplm devices prepare {device.name} --with-training`",
        )
    with store.held() as room:
        store.shell.run(_CLEAN, store.root, step=_STEP)
        program = place_program(store, room, progress)
    model = push_files(
        store, "bases", base.sha256[:16], _model_items(base.folder), "the base model", progress
    )
    with _job(store, recipe, model, synthetic) as (job, arguments):
        there = _there(store, out) if out.startswith(THERE) else f"{job}/adapters"
        if force:
            arguments.append("--force")
        found = _train(device, store, (job, program, there, *arguments), progress)
        if not out.startswith(THERE):
            with staged_directory(Path(out), force=force) as staging, progress.step("Fetching the adapters"):
                _pull_folder(store, there, staging)
            found["adapter"] = str(Path(out) / PurePosixPath(found["adapter"]).relative_to(there))
    return found


def _there(store: Store, path: str) -> str:
    """The device's path that `device:PATH` names; a relative one starts from the home folder."""
    return str(PurePosixPath(store.root).parent / path.removeprefix(THERE))


def _model_items(folder: Path) -> list[Item]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        Item(path, path.stat().st_size, sha256_of(path), path.relative_to(folder).as_posix())
        for path in files
    ]


@contextmanager
def _job(store: Store, recipe: Recipe, model: str, synthetic: Path | None) -> Iterator[tuple[str, list[str]]]:
    """A folder on the device with this person's recipe and files; it goes with the block."""
    name = secrets.token_hex(8)
    job = f"{store.root}/jobs/{name}"
    document: dict[str, Any] = {
        "version": recipe.version,
        "model": model,
        "task": recipe.task,
        "user": recipe.user,
        "seed": recipe.seed,
        "finetune": {**recipe.finetune.as_dict(), "task_adapter": None},  # the pushed base has it already
    }
    files: dict[str, Path] = {}
    if recipe.profile.startswith(THERE):
        document["profile"] = _there(store, recipe.profile)
    else:
        files[f"profile{recipe.profile_path.suffix}"] = recipe.profile_path
        document["profile"] = next(iter(files))
    task = Path(recipe.task_source)
    if task.is_file():
        files["task.yaml"] = task
        document["task"] = "./task.yaml"
    arguments = []
    if synthetic is not None:
        files |= {f"synthetic/{path.name}": path for path in sorted(synthetic.iterdir()) if path.is_file()}
        arguments = ["--synthetic", f"{job}/synthetic"]
    try:
        text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False).encode()
        made = store.shell.run(_JOB, store.root, name, step=_STEP, stdin=text)
        store.check(made, _STEP, "cannot make a folder for the training")
        if synthetic is not None:
            store.check(
                store.shell.run('mkdir "$1/synthetic"', job, step=_STEP), _STEP, "cannot make a folder"
            )
        for target, path in files.items():
            if not path.is_file():
                raise EdgePLMError(
                    "no such file", where=str(path), mend=f"Write {THERE}/PATH for a file of the device"
                )
            with path.open("rb") as content:
                sent = store.shell.run(_WRITE, f"{job}/{target}", step=_STEP, stdin=content, timeout=None)
            store.check(sent, _STEP, f"cannot write {target}")
        yield job, arguments
    finally:
        store.shell.run(_REMOVE, store.root, name, step=_STEP)


def _train(device: RemoteDevice, store: Store, words: tuple[str, ...], progress: Progress) -> dict[str, Any]:
    process = store.shell.start(_RUN, store.root, who(), *words)
    said: deque[str] = deque(maxlen=_LINES_KEPT)
    follower = Follower(progress, device.name)

    def follow() -> None:
        for line in cast(IO[bytes], process.stderr):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text and not follower.take(text):
                said.append(text)

    reader = threading.Thread(target=follow, daemon=True)
    with process:
        try:
            reader.start()
            output = cast(IO[bytes], process.stdout).read()
            reader.join()
        finally:
            process.kill()  # whatever ends this call ends the training too: it loses its standard input
            follower.close()
    status, stderr = split_status("\n".join(["", *said, ""]).encode())
    if status is None:
        raise store.shell.fault(_STEP, *store.shell.explain(process.returncode, stderr))
    if status == BUSY:
        raise store.busy(stderr)
    try:
        found = json.loads(output)
    except ValueError:
        found = None
    if status not in (0, _WITHHELD) or not isinstance(found, Mapping):
        message = stderr.rpartition("Error: ")[2].strip() or f"status {status}"
        raise TrainingError(one_line(message), where=f"device {device.name}, step {_STEP}")
    return dict(found)


def _pull_folder(store: Store, folder: str, target: Path) -> None:
    listed = store.shell.run(_LIST, folder, step="pull")
    store.check(listed, "pull", f"cannot list {folder!r}")
    for name in listed.text.splitlines():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise store.shell.fault("pull", f"a file's name leads out of its folder: {name!r}")
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        pull_file(store, f"{folder}/{path}", target / path)
