"""An environment's way onto a device: pushed, unpacked aside, checked there, then given its name.

Until it has its name nothing takes it for an environment; what a cut leaves in `incoming` is removed or
resumed by the next run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.devices.shell import Shell
from runtimes.devices.store import Store
from runtimes.provision.archive import Archive
from runtimes.provision.pins import Spec
from toolkit.progress import SILENT, Progress

_CHECK = Path(__file__).with_name("check.py")
_MARK = "edgeplm:check="
# A memory card writes some 10 MB a second, an emulator reads its own programs slowly.
_SLOW = 3600.0

_RUN = 'sh "$1/python" - "$1"'
# The name, or the link's target, is what a later run trusts.
_EXISTS = '[ -f "$1/environment.json" ] && [ -f "$1/python" ]'
_UNPACK = """
cd "$1" || exit 1
rm -rf "incoming/$3.unpacking" && mkdir -p "incoming/$3.unpacking" environments || exit 1
# Not by tar's own z: some builds of toybox unpack nothing then, and say that all went well.
gzip -dc <"objects/$2" | tar -xf - -C "incoming/$3.unpacking" &&
    [ -f "incoming/$3.unpacking/python" ] && exit 0
rm -rf "incoming/$3.unpacking"; exit 1
"""
# What has the name already is damaged, or it would not be replaced.
_NAME = """
cd "$1" || exit 1
sync
rm -rf "incoming/$2.old"
if [ -e "environments/$2" ]; then mv "environments/$2" "incoming/$2.old" || exit 1; fi
mv "incoming/$2.unpacking" "environments/$2" || exit 1
rm -rf "incoming/$2.old"
rm -f "objects/$3"
"""
# With the environment's own Python: no tool of every device replaces a link to a folder in one step.
_LINK = b"""
import os, shutil, sys
folder, key, name = sys.argv[1:]
os.chdir(folder)
fresh = name + ".new"
if os.path.lexists(fresh):
    os.unlink(fresh)
os.symlink(key, fresh)
os.replace(fresh, name)
used = {os.readlink(entry.path) for entry in os.scandir(".") if entry.is_symlink()}
for entry in list(os.scandir(".")):
    if entry.is_dir(follow_symlinks=False) and entry.name not in used:
        shutil.rmtree(entry.path, ignore_errors=True)
"""
_SWITCH = 'sh "$1/$2/python" - "$1" "$2" "$3"'


@dataclass(frozen=True)
class Checked:
    """What an environment on the device says of itself: the digest of its spec, versions, Python's version,
    and what is wrong with it (None: nothing)."""

    spec: str | None
    versions: dict[str, str]
    python: str
    fault: str | None


def present(store: Store, name: str, progress: Progress = SILENT) -> Checked | None:
    """The environment that `name` stands for on the device, checked file by file; None if there is none."""
    step = f"check {name}"
    shell, folder = store.shell, f"{store.root}/environments/{name}"
    if shell.run(_EXISTS, folder, step=step).status != 0:
        return None
    with progress.step(f"Checking {name} on the device"):
        return _checked(shell, folder, step)


def install(store: Store, spec: Spec, archive: Archive, progress: Progress = SILENT) -> Checked:
    """Have `archive`, whose file is among the device's objects already, as the environment of `spec.name`.

    Raises DeviceError if it cannot be unpacked, or does not start there; the environment that was there
    before stays.
    """
    shell, root = store.shell, store.root
    unpacking = f"{root}/incoming/{archive.key}.unpacking"
    step = f"unpack {spec.name}"
    with progress.step(f"Unpacking {spec.name} on the device"):
        output = shell.run(_UNPACK, root, archive.sha256, archive.key, step=step, timeout=_SLOW)
    store.check(output, step, "cannot unpack it")
    step = f"check {spec.name}"
    with progress.step(f"Checking {spec.name} on the device"):
        checked = _checked(shell, unpacking, step)
    if checked.fault is not None:
        shell.run('rm -rf "$1"', unpacking, step=step, timeout=_SLOW)
        raise shell.fault(step, f"the environment does not work there ({checked.fault})")
    step = f"switch to {spec.name}"
    output = shell.run(_NAME, root, archive.key, archive.sha256, step=step, timeout=_SLOW)
    store.check(output, step, "cannot give it its name")
    output = shell.run(
        _SWITCH,
        f"{root}/environments",
        archive.key,
        spec.name,
        step=step,
        stdin=_LINK,
        timeout=_SLOW,
    )
    store.check(output, step, "cannot set the link")
    return checked


def _checked(shell: Shell, folder: str, step: str) -> Checked:
    output = shell.run(_RUN, folder, step=step, stdin=_CHECK.read_bytes(), timeout=_SLOW)
    lines = [line for line in output.text.splitlines() if line.startswith(_MARK)]
    if not lines:
        said = output.stderr.splitlines() or [f"status {output.status}"]
        return Checked(None, {}, "", f"its Python does not run: {said[-1]}")
    try:
        answer: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
        return Checked(**answer)
    except (ValueError, TypeError):
        return Checked(None, {}, "", "its Python says something else than asked")
