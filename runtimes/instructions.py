"""Instructions that the model's work takes in user space: a count, not a time, and the same in every run.

Real hardware counts them itself (perf_event_open(2)). On an emulated device qemu does, with the plugin of
runtimes/count/instructions.c: the agent starts itself anew under it, and marks a moment by a system call that
means nothing to a kernel. Standard library only.
"""

import ctypes
import errno
import json
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
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
    plan: Plan, engine: "Engine", ids: Sequence[int], counter: Counter, emit: Callable[..., None]
) -> None:
    """Count what reading a prompt takes, and what decoding takes at each depth, on the tokens `ids`.

    The counts hold everything that this thread does for them, Python's own work included. Samples: phase
    `prefill` or `decode`, tokens, count.
    """
    for number in range(-1, PASSES):

        def counted(
            phase: str, tokens: int, start: int, fields: dict[str, Any], number: int = number
        ) -> None:
            taken = counter.read() - start
            if number >= 0:
                emit(
                    "instructions",
                    source=counter.source,
                    phase=phase,
                    repeat=number,
                    tokens=tokens,
                    count=taken,
                    **fields,
                )

        prompt = ids[: plan.prompt_tokens]
        start = counter.read()
        engine.prefill(prompt)
        counted("prefill", len(prompt), start, {})
        for depth in plan.depths:
            cached = max(1, depth)
            engine.prefill(ids[:cached])
            start = counter.read()
            for token in ids[cached : cached + plan.decode_tokens]:
                engine.decode(token)
            counted("decode", plan.decode_tokens, start, {"depth": depth})


def restart_counted(plan: Plan, output: int, mark: Path = EMULATED) -> None:
    """On an emulated device that can count, start this program anew under its counter; else return.

    The new one finds `plan` where `given_plan` reads it; its standard output is the descriptor `output`.
    """
    program = _counting_program(mark)
    if program is None or _descriptors() is not None:
        return
    held, counts = os.memfd_create("plan", 0), os.memfd_create("counts", 0)
    os.write(held, json.dumps(plan.as_dict()).encode())
    # Not sys.argv: what started Python, such as a loader with its options, must be there again.
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:-1]
    executable = os.readlink("/proc/self/exe")
    environment = {
        name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("PYTHON")
    }
    with suppress(OSError, AttributeError):
        # Hash tables over addresses, and so the number of their steps, are otherwise different every time.
        ctypes.CDLL(None).personality(_ADDR_NO_RANDOMIZE)
    os.dup2(output, 1)
    command = [program, str(counts), executable, *map(os.fsdecode, words), f"{COUNTED}{held}:{counts}"]
    try:
        os.execve(program, command, environment | {"PYTHONHASHSEED": "0"})  # noqa: S606 - no shell
    except OSError as fault:
        raise DeviceError(f"{program} cannot be started ({fault.strerror})", where=str(mark)) from fault


def given_plan() -> str | None:
    """The plan that `restart_counted` left for the program it started; None for any other."""
    descriptors = _descriptors()
    return None if descriptors is None else os.pread(descriptors[0], 1 << 30, 0).decode()


def open_counter() -> Counter:
    """The counter of this thread's instructions. Raises DeviceError, which says why, where there is none."""
    descriptors = _descriptors()
    if descriptors is None:
        if EMULATED.exists():
            raise DeviceError(
                f"cannot count instructions: it is emulated and {EMULATED} names no {_PROGRAM[:-1]}",
                mend="Make it anew with `make devices-down devices-up`",
            )
        return perf_counter(*HARDWARE_INSTRUCTIONS)
    library = ctypes.CDLL(None)

    def read() -> int:
        library.prctl(MARK, 0, 0, 0, 0)
        return int(struct.unpack("=Q", os.pread(descriptors[1], 8, 0))[0])

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


def _descriptors() -> tuple[int, int] | None:
    """Where the plan and the counts are, in a program that `restart_counted` started."""
    for argument in sys.argv[1:]:
        if argument.startswith(COUNTED):
            held, _, counts = argument.removeprefix(COUNTED).partition(":")
            return int(held), int(counts)
    return None


def _counting_program(mark: Path) -> str | None:
    lines = (read_text(mark) or "").splitlines()
    return next((line.removeprefix(_PROGRAM) for line in lines if line.startswith(_PROGRAM)), None)
