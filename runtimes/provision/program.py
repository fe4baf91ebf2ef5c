"""EdgePLM itself as one file on a device, beside the environment that fine-tunes there."""

from runtimes.devices.store import Item, Room, Store
from runtimes.package import toolkit_package
from runtimes.provision.pins import TRAINING
from toolkit.progress import SILENT, Progress

STEP = "push EdgePLM"
_THERE = """
[ -f "$1/programs/$2" ] || exit 1
sum=$(sha256sum <"$1/programs/$2")
[ "${sum%% *}" = "$3" ]
"""
_PLACE = 'cd "$1" && mkdir -p programs && rm -f programs/*.pyz && mv -f "objects/$3" "programs/$2"'
_START = 'sh "$1/environments/$2/python" "$1/programs/$3" --version'


def place_program(store: Store, room: Room, progress: Progress = SILENT) -> str:
    """Have EdgePLM on the device and started there once; returns its path: a zipapp for the environment
    `training`. Within `store.held()`. Raises DeviceError if it does not start."""
    package = toolkit_package()
    words = (store.root, package.name, package.sha256)
    if store.shell.run(_THERE, *words, step=STEP).status != 0:
        item = Item(package.content, len(package.content), package.sha256, "EdgePLM")
        store.send([item], room, f"Pushing EdgePLM to {store.shell.name}", progress)
        store.check(store.shell.run(_PLACE, *words, step=STEP), STEP, "cannot place it")
        with progress.step("Starting EdgePLM on the device"):
            output = store.shell.run(_START, store.root, TRAINING, package.name, step=STEP, timeout=None)
        store.check(output, STEP, "it does not start there")
    return f"{store.root}/programs/{package.name}"
