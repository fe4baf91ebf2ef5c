"""Instructions that the model's work takes in user space: a count, not a time, and the same in every run.

Real hardware counts them itself (perf_event_open(2)). On an emulated device qemu does, with the plugin of
runtimes/count/instructions.c: the agent starts itself once more under it, and marks a moment by a system call
that means nothing to a kernel. Standard library only.
"""

import ctypes
import errno
import gc
import json
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.facts import read_number, read_text
from runtimes.plan import Plan
from toolkit.errors import DeviceError

if TYPE_CHECKING:
    from runtimes.engine import Engine

# Counted twice, after a pass that is not: the first one allocates what later ones find there.
PASSES = 2
MARK = 0x45504C4D  # "EPLM", an option that prctl(2) does not know; the same in runtimes/count/instructions.c
COUNTED = "--counted="
EMULATED = Path("/etc/edgeplm-emulated")
_PROGRAM = "count-instructions="
# What the connection sets (its port, say) has another length each time, and shifts what lies on the stack.
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "QEMU_CPU")
# A hash of text that is always the same, and no threads of numpy's, which would race for memory.
_STEADY = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
# struct perf_event_attr as it first was: include/uapi/linux/perf_event.h
_ATTRIBUTES = struct.Struct("=II5QIIQ")
_TIMES = 1 | 2  # read_format: total time enabled, total time running
_PINNED, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 2, 1 << 5, 1 << 6
HARDWARE_INSTRUCTIONS = (0, 1)


@dataclass(frozen=True)
class Counter:
    """`read` gives the instructions since some moment in the past; `source` is who counts them."""

    source: str
    read: Callable[[], int]


def count(
    plan: Plan, engine: "Engine", counter: Counter, announce: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Count what reading a prompt takes, and what decoding takes at each depth; `announce` is told each pass.

    The counts hold everything that this thread does for it, Python's own work included. Each has its phase,
    `prefill` or `decode`, its tokens and its depth.
    """
    ids = _token_ids(max(plan.prompt_tokens, max(plan.depths) + plan.decode_tokens + 1), engine.vocab_size)
    prompt = ids[: plan.prompt_tokens]
    found: list[dict[str, Any]] = []
    gc.collect()
    gc.disable()  # it would start in the midst of a count
    for number in range(-1, PASSES):
        announce(f"count instructions {number + 2} of {PASSES + 1}")
        start = counter.read()
        engine.prefill(prompt)
        taken = counter.read() - start
        found.append({"repeat": number, "phase": "prefill", "tokens": len(prompt), "count": taken})
        for depth in plan.depths:
            cached = max(1, depth)
            engine.prefill(ids[:cached])
            start = counter.read()
            for token in ids[cached : cached + plan.decode_tokens]:
                engine.decode(token)
            taken = counter.read() - start
            decoded = {"depth": depth, "tokens": plan.decode_tokens, "count": taken}
            found.append({"repeat": number, "phase": "decode", **decoded})
    gc.enable()
    return [{"source": counter.source, **fields} for fields in found if fields["repeat"] >= 0]


def _token_ids(length: int, vocab_size: int) -> list[int]:
    """Token ids that are always the same: Park and Miller's minimal standard generator (CACM 36(7), 1993).

    numpy's own generators take chance from the system when they are imported, and with it memory.
    """
    ids, state = [], 1
    for _ in range(length):
        state = state * 48271 % 0x7FFFFFFF
        ids.append(state % vocab_size)
    return ids


def counting_program(mark: Path = EMULATED) -> str | None:
    """The program of an emulated device that counts another one's instructions; None where there is none, and
    in the program that it counts."""
    lines = (read_text(mark) or "").splitlines()
    program = next((line.removeprefix(_PROGRAM) for line in lines if line.startswith(_PROGRAM)), None)
    return program if _descriptor() is None else None


def run_counted(plan: Plan, output: int, dropped: tuple[str, ...]) -> int:
    """Run `plan` in this program started once more, under the device's counter; returns its exit status.

    It writes its samples to the descriptor `output`, and ends with this one, whose arguments that begin with
    one of `dropped` it is not given. Raises DeviceError if it cannot be started.
    """
    program = counting_program() or ""
    counts = os.memfd_create("counts", 0)
    # Not sys.argv: what started Python, such as a loader with its options, must be there again.
    words = Path("/proc/self/cmdline").read_bytes().decode().split("\0")[1:-1]
    kept = [word for word in words if not word.startswith(dropped)]
    environment = {
        name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("PYTHON")
    }
    with suppress(OSError, AttributeError):
        # For what is started from here on; what lies where decides how many steps a hash table takes.
        ctypes.CDLL(None).personality(_ADDR_NO_RANDOMIZE)
    # Its arguments are as long every time: they lie on the stack.
    own = [f"{COUNTED}{counts:03d}", f"--end-with-parent={os.getpid():08d}"]
    try:
        return subprocess.run(
            [program, str(counts), str(Path("/proc/self/exe").readlink()), *kept, *own],
            input=json.dumps(plan.as_dict()).encode(),
            stdout=output,
            env=environment | _STEADY,
            pass_fds=[counts],
            check=False,
        ).returncode
    except OSError as fault:
        raise DeviceError(f"{program} cannot be started ({fault.strerror})", where=str(EMULATED)) from fault


def open_counter() -> Counter:
    """The counter of this thread's instructions. Raises DeviceError, which says why, where there is none."""
    descriptor = _descriptor()
    if descriptor is None:
        if EMULATED.exists():
            raise DeviceError(
                f"cannot count instructions: it is emulated, and {EMULATED} has no line {_PROGRAM}PROGRAM",
                mend="Make it anew: make devices-down devices-up",
            )
        return perf_counter(*HARDWARE_INSTRUCTIONS)
    library = ctypes.CDLL(None)

    def read() -> int:
        library.prctl(MARK, 0, 0, 0, 0)
        return int(struct.unpack("=Q", os.pread(descriptor, 8, 0))[0])

    return Counter("qemu", read)


def perf_counter(kind: int, event: int) -> Counter:
    """A counter of the kernel for this thread, in user space: perf_event_open(2) with `kind` and `event`."""
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None or sys.platform != "linux":
        raise _cannot(f"counters of {platform.system()} on {platform.machine()} are not known here")
    flags = _PINNED | _EXCLUDE_KERNEL | _EXCLUDE_HV
    attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, event, 0, 0, _TIMES, flags, 0, 0, 0)
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.syscall(number, attributes, 0, -1, -1, 0)
    if descriptor < 0:
        raise _refused(ctypes.get_errno())

    def read() -> int:
        content = os.read(descriptor, 24)
        if len(content) < 24:
            raise _cannot("another program holds the processor's counter", "End other profilers")
        value, enabled, running = struct.unpack("=3Q", content)
        if running < enabled:
            raise _cannot(
                "the counter belongs to one kind of core and the program moved to another",
                "Bind it to cores of one kind",
            )
        return int(value)

    return Counter("perf", read)


def _refused(number: int) -> DeviceError:
    if number in (errno.EACCES, errno.EPERM):
        level = read_number(_PARANOID)
        return _cannot(
            f"kernel.perf_event_paranoid is {level}, and at most 2 allows it",
            "On the device, as root: sysctl kernel.perf_event_paranoid=2"
            " (Android: adb shell setprop security.perf_harden 0)",
        )
    if number in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
        return _cannot("its processor shows no counter of instructions, as in most virtual machines")
    return _cannot(f"perf_event_open: {os.strerror(number)}")


def _cannot(why: str, mend: str | None = None) -> DeviceError:
    return DeviceError(f"cannot count instructions: {why}", mend=mend or "Leave out --count-instructions")


def _descriptor() -> int | None:
    """Where the counts are, in a program that `run_counted` started."""
    given = (word.removeprefix(COUNTED) for word in sys.argv[1:] if word.startswith(COUNTED))
    return next(map(int, given), None)
