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
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from runtimes.facts import machine_facts
from runtimes.plan import Plan, plan_from_dict
from runtimes.sensors import memory, sensors
from runtimes.settle import settle
from toolkit.errors import DeviceError, EdgePLMError

if TYPE_CHECKING:
    from runtimes.engine import Engine

AGENT_VERSION = 1
TOKEN_SEED = 20260
END_WITH_PARENT = "--end-with-parent="
END_WITH_INPUT = "--end-with-input"
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

    def begin(self, step: str) -> None:
        """Say what comes next, so that a crash can be placed."""
        self.step = step
        self.emit("step", name=step)


def execute(plan: Plan, samples: Samples, open_engine: OpenEngine) -> None:
    """Do all that `plan` asks for and write its samples.

    The engine is opened once for everything that is measured; the second, warm load comes last, so that it
    cannot add to the peak memory.
    """
    emit = samples.emit
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    versions = {name: version for name in _LIBRARIES if (version := _installed(name))}
    emit(
        "hello",
        agent=AGENT_VERSION,
        python=platform.python_version(),
        machine=machine_facts().as_dict(),
        versions=versions,
        allowed_cores=cores,
    )
    if plan.settle_seconds:
        samples.begin("settle")
        emit("settle", **settle(plan.settle_seconds, cores))
    samples.begin("load")
    emit("sensors", when="before", **sensors())
    emit("memory", when="before load", **memory())
    with _loaded(plan, "cold", emit, open_engine) as engine:
        emit("memory", when="after load", **memory())
        if plan.repeats:
            _latency(plan, engine, samples)
        if plan.prompts_ids:
            _answers(plan, engine, samples)
        emit("memory", when="after run", **memory())
    if plan.repeats:
        samples.begin("load again")
        with _loaded(plan, "warm", emit, open_engine):
            pass
    emit("sensors", when="after", **sensors())
    emit("done")


@contextmanager
def _loaded(plan: Plan, state: str, emit: Emit, open_engine: OpenEngine) -> "Iterator[Engine]":
    """An open engine; a "cold" load is the first of this process and includes importing the runtime."""
    started = time.perf_counter()
    with closing(open_engine(Path(plan.bundle), plan.threads)) as engine:
        engine.use_adapter(plan.adapter)
        seconds = time.perf_counter() - started
        emit(
            "load",
            state=state,
            seconds=seconds,
            runtime=engine.name,
            runtime_version=engine.version,
            context_length=engine.context_length,
        )
        yield engine


def _latency(plan: Plan, engine: "Engine", samples: Samples) -> None:
    plan = _fitted(plan, engine.context_length)
    longest = max(plan.prompt_tokens, max(plan.depths) + plan.decode_tokens + 1)
    # RandomState's stream is frozen by numpy's compatibility policy; Generator's is not.
    ids = np.random.RandomState(TOKEN_SEED).randint(0, engine.vocab_size, longest).tolist()
    for number in range(-plan.warmup, plan.repeats):
        warmup = number < 0
        if number == 0:
            samples.emit("sensors", when="start", **sensors())
        samples.begin("warm-up" if warmup else f"repeat {number + 1} of {plan.repeats}")
        _prefill(plan, engine, ids, samples.emit, {"repeat": number, "warmup": warmup})
        for depth in plan.depths:
            _decode(plan, engine, ids, samples.emit, {"repeat": number, "warmup": warmup, "depth": depth})
        samples.emit("sensors", when="during", repeat=number, warmup=warmup, **sensors())


def _fitted(plan: Plan, context_length: int) -> Plan:
    """The plan with its depths capped to what the context length leaves room for."""
    # An engine takes a prompt only with room for one more token behind it, and depth 0 starts from one.
    room = context_length - plan.decode_tokens - 1
    if room < 1 or plan.prompt_tokens >= context_length:
        raise DeviceError(
            f"{plan.prompt_tokens} prompt tokens and {plan.decode_tokens} decode tokens do not fit a context "
            f"length of {context_length}",
            mend="Ask for fewer tokens",
        )
    return replace(plan, depths=tuple(dict.fromkeys(min(depth, room) for depth in plan.depths)))


def _prefill(plan: Plan, engine: "Engine", ids: list[int], emit: Emit, fields: dict[str, Any]) -> None:
    prompt = ids[: plan.prompt_tokens]
    started = time.perf_counter()
    logits = engine.prefill(prompt)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    int(np.argmax(logits))
    sampling = time.perf_counter() - started
    emit(
        "prefill",
        **fields,
        tokens=len(prompt),
        seconds=seconds,
        sampling_seconds=sampling,
        ttft=seconds + sampling,
    )


def _decode(plan: Plan, engine: "Engine", ids: list[int], emit: Emit, fields: dict[str, Any]) -> None:
    """Time single decode steps; sampling the next token from the logits is timed apart."""
    cached = max(1, fields["depth"])
    engine.prefill(ids[:cached])
    seconds: list[float] = []
    sampling: list[float] = []
    for token in ids[cached : cached + plan.decode_tokens]:
        started = time.perf_counter()
        logits = engine.decode(token)
        decoded = time.perf_counter()
        int(np.argmax(logits))
        sampling.append(time.perf_counter() - decoded)
        seconds.append(decoded - started)
    emit("decode", **fields, tokens=len(seconds), seconds=seconds, sampling_seconds=sampling)


def _answers(plan: Plan, engine: "Engine", samples: Samples) -> None:
    for index, ids in enumerate(plan.prompts_ids):
        samples.begin(f"answer {index + 1} of {len(plan.prompts_ids)}")
        started = time.perf_counter()
        answer = [int(token) for token in engine.generate(ids, plan.max_new_tokens, plan.stop_ids)]
        samples.emit("answer", index=index, ids=answer, seconds=time.perf_counter() - started)


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
        execute(plan, samples, open_engine)
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
