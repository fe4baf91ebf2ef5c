"""A stand-in until the devices' own push is here: a whole file into `objects`, verified there."""

from runtimes.devices.shell import Shell
from runtimes.provision.archive import Archive
from toolkit.progress import SILENT, Progress

_PUT = """
cd "$1" || exit 1
part=incoming/$2.part
cat > "$part" || exit 1
found=$(sha256sum "$part") || exit 1
[ "${found%% *}" = "$2" ] || { rm -f "$part"; echo "what arrived is not what was sent" >&2; exit 1; }
mv "$part" "objects/$2"
"""


_OPEN = """
mkdir -p "$1/objects" "$1/incoming" "$1/environments" || exit 1
df -Pk "$1" | tail -n 1
"""


def open_root(shell: Shell, root: str) -> int:
    """Make the folders below `root`; returns the bytes free there."""
    output = shell.run(_OPEN, root, step="set up")
    if output.status != 0:
        raise shell.fault("set up", output.stderr or f"status {output.status}", f"Make {root} writable")
    return int(output.text.split()[-3]) * 1024


def push(shell: Shell, root: str, archive: Archive, progress: Progress = SILENT) -> int:
    """Have the archive's file among the device's objects; returns the bytes sent."""
    if shell.run('[ -f "$1/objects/$2" ]', root, archive.sha256, step="push").status == 0:
        return 0
    with progress.step("Pushing"), open(archive.path, "rb") as file:
        output = shell.run(_PUT, root, archive.sha256, step="push", stdin=file, timeout=None)
    if output.status != 0:
        raise shell.fault("push", output.stderr or f"status {output.status}", "Type the same command again")
    return archive.bytes
