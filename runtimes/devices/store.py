"""Files on a device, known by their content: sent once, resumed after a cut, trusted only when verified.

The folder on the device, ROOT, has objects/SHA256 (verified), incoming/SHA256.part (being sent: trusted by
nobody) and lock. All of it needs no more than a POSIX shell with coreutils, busybox or toybox.
"""

import getpass
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from runtimes.devices.shell import Output, Shell, await_line, split_status
from toolkit.errors import DeviceError, printable
from toolkit.progress import SILENT, Advance, Progress

_TOOLS = "cat cp df find flock ln mkdir mv rm sha256sum wc"
# A redirection of a block: shells of the Korn family keep files opened by `exec` from their children.
LOCK = """
{ flock -n 9 || { head -n 1 "$1/lock" >&2; exit 75; }
printf '%s\\n' "$2" >"$1/lock"
"""
_HELD = "edgeplm-held"
_HOLD = LOCK + f'echo {_HELD}; cat >/dev/null; }} 9>>"$1/lock"'
BUSY = 75

_OPEN = f"""
for tool in {_TOOLS}; do command -v "$tool" >/dev/null || {{ echo "$tool"; exit 69; }}; done
[ -d "$1" ] || (umask 077; mkdir -p "$1") || exit 1
cd "$1" && mkdir -p agents bundles environments incoming objects
"""
_NO_TOOL = 69
_CLEAN = """
cd "$1/incoming" || exit 1
for left in *.new *.old *.unpacking; do rm -rf "./$left"; done
find . -name '*.part' -mtime +7 -exec rm -f {} ';'
: >link.old && ln link.old link.new 2>/dev/null && echo links
rm -f link.old link.new
df -P -k .
"""
_STATE = """
cd "$1" || exit 1; shift
for sha; do
  if [ -f "objects/$sha" ]; then
    sum=$(sha256sum <"objects/$sha")
    if [ "${sum%% *}" = "$sha" ]; then echo "object $sha"; continue; fi
    rm -f "objects/$sha" || exit 1
  fi
  if [ -f "incoming/$sha.part" ]; then echo "part $sha $(($(wc -c <"incoming/$sha.part")))"; fi
done
"""
# $1 root, $2 sha256, $3 size, $4 size of the part that is there
_RECEIVE = """
part=$1/incoming/$2.part
[ -f "$part" ] || : >"$part" || exit 3
[ "$(($(wc -c <"$part")))" = "$4" ] || { rm -f "$part"; exit 6; }
cat >>"$part" || { rm -f "$part"; exit 3; }
[ "$(($(wc -c <"$part")))" = "$3" ] || exit 4
sum=$(sha256sum <"$part")
[ "${sum%% *}" = "$2" ] || { rm -f "$part"; exit 5; }
mv -f "$part" "$1/objects/$2" || exit 3
"""
_WRITE, _SHORT, _WRONG, _MOVED = 3, 4, 5, 6
_RESERVE = 16_000_000  # bytes left free: a device whose disk is full misbehaves in other ways
_AT_A_TIME = 200
_LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Item:
    """A file to be sent: a path on this machine or its content, its size in bytes and its hex sha256."""

    source: "Path | bytes"
    size: int
    sha256: str
    name: str = ""

    def __str__(self) -> str:
        return repr(self.name or self.source)


@dataclass(frozen=True)
class Room:
    """Bytes free on the device's disk (None: it does not tell), and whether it can link a file twice."""

    free: int | None
    links: bool


class Store:
    """The objects below `root`, an absolute path on the device."""

    def __init__(self, shell: Shell, root: str) -> None:
        self.shell = shell
        self.root = root

    @contextmanager
    def held(self) -> Iterator[Room]:
        """Keep the device to this process until the block ends, with what dead pushes left cleaned away.

        Raises DeviceError if another process has it, and says which.
        """
        opened = self.shell.run(_OPEN, self.root, step="set up")
        if opened.status == _NO_TOOL:
            tool = printable(opened.text.strip())
            raise self.shell.fault(
                "set up", f"it has no `{tool}`", "Install coreutils and util-linux, or busybox"
            )
        self.check(opened, "set up", f"cannot make its folder {self.root!r}")
        with self._lock():
            cleaned = self.shell.run(_CLEAN, self.root, step="set up")
            self.check(cleaned, "set up", f"cannot write to its folder {self.root!r}")
            yield Room(free_bytes(cleaned.text), "links" in cleaned.text.splitlines())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        holder = self.shell.start(_HOLD, self.root, who())
        with holder:
            try:
                if not await_line(holder, _HELD, _LOCK_SECONDS):
                    raise self._not_held(holder)
                yield
            finally:
                end(holder)

    def _not_held(self, holder: "subprocess.Popen[bytes]") -> DeviceError:
        if not _ends(holder):
            holder.kill()
        status, said = split_status(cast(IO[bytes], holder.stderr).read())
        if status is None:
            return self.shell.fault("lock", *self.shell.explain(holder.wait(), said))
        return (
            self.busy(said)
            if status == BUSY
            else self.shell.fault("lock", f"cannot lock it ({one_line(said)})")
        )

    def busy(self, holder: str) -> DeviceError:
        """The error that another process has the device."""
        return self.shell.fault(
            "lock",
            f"it is in use by {one_line(holder) or 'another process'}",
            "Wait for its end, then try again",
        )

    def send(
        self, items: Iterable[Item], room: Room, label: str, progress: Progress = SILENT, also: int = 0
    ) -> None:
        """Have `items` among the objects, verified there; only what is missing is sent. Within `held`.

        `also` are bytes that must be free besides.
        """
        wanted = {item.sha256: item for item in items}
        good, parts = self._state(list(wanted))
        missing = [item for sha, item in wanted.items() if sha not in good]
        left = sum(item.size - self._kept(item, parts) for item in missing)
        self._check_space(left + also, room)
        if not missing:
            return
        with progress.step(label, total=left / 1e6, unit="MB") as advance:
            for item in missing:
                self._send(item, self._kept(item, parts), advance)

    def _check_space(self, needed: int, room: Room) -> None:
        """Raise DeviceError unless `needed` bytes fit the device's disk."""
        if needed and room.free is not None and room.free < needed + _RESERVE:
            raise self.shell.fault(
                "space",
                f"{needed / 1e6:.1f} MB more are needed, and {room.free / 1e6:.1f} MB are free "
                f"({_RESERVE / 1e6:.0f} MB must stay so)",
                f"Free some space there, such as old bundles below {self.root!r}",
            )

    def check(self, output: Output, step: str, what: str, good: Sequence[int] = (0,)) -> None:
        """Raise DeviceError, saying `what` failed, unless the script ended with a status in `good`."""
        if output.status in good:
            return
        full = re.search(r"No space left|quota exceeded|File too large", output.stderr, re.IGNORECASE)
        mend = f"The disk is full: free some space there, such as old bundles below {self.root!r}"
        said = one_line(output.stderr) or f"status {output.status}"
        raise self.shell.fault(step, f"{what} ({said})", mend if full else None)

    @staticmethod
    def _kept(item: Item, parts: dict[str, int]) -> int:
        """Bytes of `item` that are on the device already; a part that is too long is of no use."""
        size = parts.get(item.sha256, 0)
        return size if size <= item.size else 0

    def _state(self, shas: Sequence[str]) -> tuple[set[str], dict[str, int]]:
        """Which objects are there and good, and the sizes of parts; damaged objects are removed."""
        good: set[str] = set()
        parts: dict[str, int] = {}
        for first in range(0, len(shas), _AT_A_TIME):
            some = shas[first : first + _AT_A_TIME]
            output = self.shell.run(_STATE, self.root, *some, step="look", timeout=None)
            self.check(output, "look", "cannot read what is there")
            for line in output.text.splitlines():
                match line.split():
                    case ["object", sha]:
                        good.add(sha)
                    case ["part", sha, size] if size.isdigit():
                        parts[sha] = int(size)
        return good, parts

    def _send(self, item: Item, offset: int, advance: Advance) -> None:
        status = self._attempt(item, offset, advance)
        if status in (_WRONG, _MOVED):  # the part was of no use, and is gone
            status = self._attempt(item, 0, advance)
        if status == _SHORT:
            raise self.shell.fault("push", f"{item} changed on this machine while it was sent")
        if status:
            raise self.shell.fault(
                "push", f"{item} arrives altered: its sha256 differs", "Is it unchanged since its export?"
            )

    def _attempt(self, item: Item, offset: int, advance: Advance) -> int:
        with _opened(item, offset) as (stdin, watch):
            position = offset

            def follow() -> None:
                nonlocal position
                position, before = watch(), position
                advance((position - before) / 1e6)

            output = self.shell.run(
                _RECEIVE,
                self.root,
                item.sha256,
                str(item.size),
                str(offset),
                step="push",
                stdin=stdin,
                timeout=None,
                watch=follow,
            )
            follow()
        self.check(output, "push", f"cannot write {item}", (0, _SHORT, _WRONG, _MOVED))
        return output.status


@contextmanager
def _opened(item: Item, offset: int) -> "Iterator[tuple[bytes | IO[bytes], Callable[[], int]]]":
    """What is to be sent from `offset` on, and a function that tells how far the sending has come."""
    if isinstance(item.source, bytes):
        yield item.source[offset:], lambda: item.size
        return
    with open(item.source, "rb", buffering=0) as file:
        file.seek(offset)
        # The client reads from the very same open file, so that its position is ours to see.
        yield file, file.tell


def end(process: "subprocess.Popen[bytes]", seconds: float = 5.0) -> None:
    """Close the script's standard input, at which it ends, and its client with it."""
    with suppress(OSError):
        cast(IO[bytes], process.stdin).close()
    if not _ends(process, seconds):
        process.kill()


def _ends(process: "subprocess.Popen[bytes]", seconds: float = 5.0) -> bool:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def free_bytes(table: str) -> int | None:
    """The free bytes in the output of `df -P -k`; a file system's name may hold blanks and break the line."""
    found = re.findall(r"(-?\d+)\s+\d+%", table)
    return max(0, int(found[-1])) * 1024 if found else None


def one_line(text: str) -> str:
    """What a device said, fit for one line of ours."""
    return " ".join(printable(text).split())[:300]


def who() -> str:
    """Who holds a device, for another one who wants it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"
