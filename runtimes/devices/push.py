"""A bundle onto a device, through any shell: complete and verified there, or not there at all."""

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from exporters.bundle import MANIFEST, Manifest, open_bundle
from runtimes.devices.store import Item, Store
from toolkit.files import write_atomic
from toolkit.progress import SILENT, Progress

# $1 folder, then names: prints the number of each name and the sha256 of its file.
_HASHES = """
cd "$1" 2>/dev/null || exit 0; shift
number=0
for name; do
  if [ -f "./$name" ]; then sum=$(sha256sum <"./$name"); echo "$number ${sum%% *}"; fi
  number=$((number + 1))
done
"""
_NEW = 'rm -rf "$1/incoming/$2.new"; mkdir "$1/incoming/$2.new"'
# $1 root, $2 key, then names and hashes by turns.
_ASSEMBLE = """
objects=$1/objects
cd "$1/incoming/$2.new" || exit 1; shift 2
while [ $# -gt 1 ]; do
  case $1 in */*) mkdir -p "./${1%/*}" || exit 1;; esac
  ln "$objects/$2" "./$1" 2>/dev/null || cp "$objects/$2" "./$1" || exit 1
  shift 2
done
"""
# Nothing of the same name is ever half there: what was damaged goes away whole before the new one comes.
_FINISH = """
cd "$1" || exit 1
mkdir -p "$3" || exit 1
if [ -e "$3/$2" ]; then mv "$3/$2" "incoming/$2.old" || exit 1; fi
mv "incoming/$2.new" "$3/$2" || exit 1
rm -rf "incoming/$2.old"
"""
_FETCH = """
[ -f "$1" ] || exit 66
sha256sum <"$1" >&2 && cat "$1"
"""
_NO_FILE = 66
_LINE_BYTES = 60_000  # of one command line; Linux gives a single argument 128 KiB


def push_bundle(store: Store, bundle: Path, progress: Progress = SILENT) -> str:
    """Have `bundle` below the store's root, every file's hash checked there just now; returns its folder.

    What is there already is checked again, and mended where it is damaged. Raises BundleError if the bundle
    on this machine is not whole, DeviceError with the device and the step.
    """
    manifest = open_bundle(bundle)
    items = _items(bundle, manifest)
    return push_files(store, "bundles", items[-1].sha256[:16], items, bundle.resolve().name, progress)


def push_files(
    store: Store, kind: str, key: str, items: Sequence[Item], label: str, progress: Progress = SILENT
) -> str:
    """Have `items` by their names in ROOT/`kind`/`key`, every file's hash checked there just now;
    returns that folder. `label` is what they are together. Raises DeviceError with device and step."""
    folder = f"{store.root}/{kind}/{key}"
    name = f"push {label} to {store.shell.name}"
    with store.held() as room:
        with progress.step(f"verify on {store.shell.name}"):
            if _complete(store, folder, items):
                return folder
        # Where files cannot be linked, the bundle is a copy of the objects.
        copies = 0 if room.links else sum(item.size for item in items)
        store.send(items, room, name, progress, also=copies)
        store.check(
            store.shell.run(_NEW, store.root, key, step="assemble"), "assemble", "cannot make the bundle"
        )
        for words in _batches((item.name, item.sha256) for item in items):
            output = store.shell.run(_ASSEMBLE, store.root, key, *words, step="assemble", timeout=None)
            store.check(output, "assemble", "cannot make the bundle")
        if not _complete(store, f"{store.root}/incoming/{key}.new", items):
            raise store.shell.fault(
                "verify",
                "a file differs from what was sent",
                "Its disk may be failing; try again, or replace it",
            )
        finished = store.shell.run(_FINISH, store.root, key, kind, step="assemble")
        store.check(finished, "assemble", f"cannot place {label}")
    return folder


def _items(bundle: Path, manifest: Manifest) -> list[Item]:
    """The bundle's files, the manifest last."""
    listed = [Item(bundle / file.path, file.bytes, file.sha256, file.path) for file in manifest.files]
    content = (bundle / MANIFEST).read_bytes()
    return [*listed, Item(content, len(content), hashlib.sha256(content).hexdigest(), MANIFEST)]


def _complete(store: Store, folder: str, items: Sequence[Item]) -> bool:
    """Whether `folder` on the device has every item with its hash."""
    found: list[str | None] = []
    for names in _batches((item.name,) for item in items):
        output = store.shell.run(_HASHES, folder, *names, step="verify", timeout=None)
        store.check(output, "verify", "cannot read the bundle there")
        hashes = dict(line.split() for line in output.text.splitlines() if line.count(" ") == 1)
        found += [hashes.get(str(number)) for number in range(len(names))]
    return found == [item.sha256 for item in items]


def _batches(groups: Iterable[tuple[str, ...]]) -> Iterator[list[str]]:
    """The words of `groups` in lists that each fit a command line; a group is never divided."""
    batch: list[str] = []
    length = 0
    for group in groups:
        size = sum(2 * len(shlex.quote(word).encode()) for word in group)  # it is quoted twice at most
        if batch and length + size > _LINE_BYTES:
            yield batch
            batch, length = [], 0
        batch += group
        length += size
    if batch:
        yield batch


def pull_file(store: Store, path: str, target: Path) -> None:
    """Copy the file at `path` on the device, which fits memory, to `target`, verified; raises DeviceError."""
    output = store.shell.run(_FETCH, path, step="pull", timeout=None)
    if output.status == _NO_FILE:
        raise store.shell.fault("pull", f"it has no file {path!r}")
    store.check(output, "pull", f"cannot read {path!r}")
    if hashlib.sha256(output.stdout).hexdigest() not in output.stderr.split():
        raise store.shell.fault("pull", f"{path!r} changed while it was read", "Try again")
    write_atomic(target, output.stdout)
