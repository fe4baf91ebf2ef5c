"""The program that runs on the device: `python -m runtimes.agent` < plan.json > samples.jsonl

It reads one plan (see `runtimes.plan`) and writes one JSON object a line, each with `kind` and the monotonic
time `t`. Standard library, numpy and the runtime only. Token ids for latency come from a fixed seeded
sequence, so every run of a model does the same work. All times are in seconds.
"""

import ctypes
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from runtimes.affinity import allowed_cores, choose_cores, pin
from runtimes.energy import announce, idle_energy, work_energy
from runtimes.facts import machine_facts
from runtimes.instructions import count, counting_program, open_counter, run_counted
from runtimes.latency import fitted, latency, token_ids
from runtimes.pagecache import evict
from runtimes.plan import Plan, plan_from_dict
from runtimes.power import find_source
from runtimes.preflight import refuse
from runtimes.quality import answers, golden, scores
from runtimes.sensors import memory, sensors
from runtimes.settle import settle
from runtimes.sustained import sustain
from toolkit.errors import DeviceError, EdgePLMError

if TYPE_CHECKING:
    from runtimes.engine import Engine

AGENT_VERSION = 1
END_WITH_PARENT = "--end-with-parent="
END_WITH_INPUT = "--end-with-input"
_FOLLOWED = (END_WITH_PARENT, END_WITH_INPUT)
_LEFT_ALONE = 3  # exit status
_PR_SET_PDEATHSIG = 1  # prctl(2); the parent is the thread that started us, so it must stay
_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-genai", "executorch")

Emit = Callable[..., None]
OpenEngine = Callable[[Path, int | None], "Engine"]


class Samples:
    """Writes samples to `stream` and remembers the step that is under way."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.step = "start"

    def emit(self, kind: str, **fields: Any) -> None:
        """Write one sample."""
        sample = {"kind": kind, "t": time.monotonic(), **fields}
        self._stream.write(json.dumps(sample) + "\n")
        self._stream.flush()

    @property
    def descriptor(self) -> int:
        """The file descriptor that the samples go to."""
        return self._stream.fileno()

    def announce(self, step: str) -> None:
        """As `begin`, without the time: a number of another length leaves the memory in another state."""
        self.step = step
        self._stream.write(f'{{"kind": "step", "name": "{step}"}}\n')
        self._stream.flush()

    def begin(self, step: str) -> None:
        """Say what comes next, so that a crash can be placed."""
        self.step = step
        self.emit("step", name=step)


def execute(plan: Plan, samples: Samples, open_engine: OpenEngine, root: Path = Path("/")) -> None:
    """Do all that `plan` asks for and write its samples; `root` stands for `/`.

    The engine is opened once for nearly all; the second, warm load comes after it, so that it cannot add to
    the peak memory, and the sustained decode last, so that its heat reaches nothing else.
    """
    emit = samples.emit
    if plan.cores is not None:
        pin(choose_cores(plan.cores, root))  # before the runtime starts its threads, which inherit it
    cores = allowed_cores()
    _hello(samples, root, cores)
    if plan.settle_seconds:
        samples.begin("settle")
        emit("settle", **settle(plan.settle_seconds, len(cores), read=lambda: sensors(root)))
    samples.begin("preflight")
    refuse(sensors(root), Path(plan.bundle))
    source = find_source(root) if plan.repeats and plan.energy_seconds else None
    if plan.repeats and plan.energy_seconds:
        announce(source, emit)
    if source is not None:
        samples.begin("power at rest")
        idle_energy(plan, source, emit)
    cache = evict(Path(plan.bundle)) if plan.repeats else {}
    samples.begin("load")
    emit("sensors", when="before", **sensors(root))
    emit("memory", when="before load", **memory(root))
    with _loaded(plan, "cold", emit, open_engine, **cache) as engine:
        emit("memory", when="after load", **memory(root))
        if plan.repeats:
            fitting = fitted(plan, engine.context_length)
            ids = token_ids(fitting, engine.vocab_size)
            latency(fitting, engine, ids, samples, root)
            if source is not None:
                samples.begin("energy")
                work_energy(fitting, engine, ids, source, emit)
        answers(plan, engine, samples)
        scores(plan, engine, samples)
        golden(plan, engine, samples)
        emit("memory", when="after run", **memory(root))
    if plan.repeats or plan.sustained_minutes:
        samples.begin("load again")
        with _loaded(plan, "warm", emit, open_engine) as engine:
            if plan.sustained_minutes:
                samples.begin("sustained")
                fitting = fitted(plan, engine.context_length)
                ids = token_ids(fitting, engine.vocab_size)
                sustain(fitting, engine, ids, emit, read=lambda: sensors(root))
    emit("sensors", when="after", **sensors(root))
    emit("done")


def execute_counts(plan: Plan, samples: Samples, open_engine: OpenEngine, root: Path = Path("/")) -> None:
    """Count instructions as `plan` asks and write the samples.

    All else comes after the counts: what is read from a machine has another length every time, and leaves the
    memory in another state.
    """
    counter = open_counter()
    samples.announce("load")
    with closing(open_engine(Path(plan.bundle), plan.threads)) as engine:
        engine.use_adapter(plan.adapter)
        fitting = fitted(plan, engine.context_length)
        counts = count(fitting, engine, counter, samples.announce)
    _hello(samples, root, allowed_cores())
    for fields in counts:
        samples.emit("instructions", **fields)
    samples.emit("done")


def _hello(samples: Samples, root: Path, cores: list[int]) -> None:
    samples.emit(
        "hello",
        agent=AGENT_VERSION,
        python=platform.python_version(),
        machine=machine_facts(root).as_dict(),
        versions={name: version for name in _LIBRARIES if (version := _installed(name))},
        allowed_cores=len(cores),
        cores=cores,
    )


@contextmanager
def _loaded(plan: Plan, state: str, emit: Emit, open_engine: OpenEngine, **fields: Any) -> "Iterator[Engine]":
    """An open engine; a "cold" load is the first of this process and includes importing the runtime."""
    threads = plan.threads
    if threads is None and plan.cores is not None:
        # Left to itself a runtime counts all cores, and ONNX Runtime binds its threads to them one by one.
        threads = len(allowed_cores())
    started = time.perf_counter()
    with closing(open_engine(Path(plan.bundle), threads)) as engine:
        engine.use_adapter(plan.adapter)
        seconds = time.perf_counter() - started
        emit(
            "load",
            state=state,
            seconds=seconds,
            threads=threads,
            runtime=engine.name,
            runtime_version=engine.version,
            context_length=engine.context_length,
            **fields,
        )
        yield engine


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def claim_stdout() -> TextIO:
    """A stream to the real standard output; whatever else this process prints goes to standard error.

    Native runtimes print to file descriptor 1 themselves, so the descriptor is moved, not just `sys.stdout`.
    """
    sys.stdout.flush()
    samples = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(samples, "w", encoding="utf-8")


def _end_with_parent(parent: int) -> None:
    """Have Linux kill this process once its parent is gone, however that ended; elsewhere do nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could ask
        raise SystemExit(1)


def _read_plan(lifeline: bool) -> Plan:
    """The plan on standard input; with `lifeline`, its first line, and this process ends with the input."""
    source = sys.stdin.buffer
    text = source.readline() if lifeline else source.read()
    if lifeline:
        threading.Thread(target=_end_with_input, args=(source.fileno(),), daemon=True).start()
    try:
        return plan_from_dict(json.loads(text))
    except ValueError as fault:
        raise DeviceError(f"not JSON ({fault})", where="plan of the run") from fault


def _end_with_input(descriptor: int) -> None:
    """Wait for the end of the input: whoever wanted the samples has gone, so end at once."""
    # Not through sys.stdin: a thread that waits in it holds a lock that Python's own end asks for.
    while os.read(descriptor, 4096):
        pass
    os._exit(_LEFT_ALONE)


def main(open_engine: OpenEngine | None = None) -> int:
    """Run the plan on standard input; 0 when it is done, 1 after an error that a sample tells of.

    With the argument --end-with-parent=PID it never outlives that program, which must have started it; with
    --end-with-input it ends when its standard input does.
    """
    samples = Samples(claim_stdout())
    for argument in sys.argv[1:]:
        if argument.startswith(END_WITH_PARENT):
            _end_with_parent(int(argument.removeprefix(END_WITH_PARENT)))
    try:
        plan = _read_plan(END_WITH_INPUT in sys.argv[1:])
        if open_engine is None:
            from runtimes import open_engine as stock_open_engine

            open_engine = stock_open_engine
        if plan.count_instructions and counting_program():
            return run_counted(plan, samples.descriptor, _FOLLOWED)
        work = execute_counts if plan.count_instructions else execute
        work(plan, samples, open_engine)
    except BrokenPipeError:
        return 1  # Nobody listens any more: the program that started this one has ended.
    except EdgePLMError as fault:
        samples.emit("error", step=samples.step, message=str(fault))
        return 1
    except Exception as fault:
        samples.emit("error", step=samples.step, message=f"{type(fault).__name__}: {fault}")
        raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
