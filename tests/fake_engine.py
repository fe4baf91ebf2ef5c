"""A deterministic engine without a model, and the agent with it: `fake_engine.py FAULT < plan.json`."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from runtimes.agent import main
from runtimes.engine import Engine, Logits
from toolkit.errors import BundleError

VOCAB = 50


class FakeEngine(Engine):
    """Always predicts the token after the last one."""

    name = "fake"
    version = "7.0"
    context_length = 200
    vocab_size = VOCAB

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.seen: list[list[int]] = []
        self.closed = False

    def prefill(self, ids):
        self.check_length(ids)
        self.seen.append(list(ids))
        return self._after(ids[-1])

    def decode(self, token):
        self.seen[-1].append(token)
        if len(self.seen[-1]) > self.context_length:
            raise ValueError("the context is full")
        return self._after(token)

    def score(self, ids):
        return np.stack([self._after(token) for token in ids])

    def close(self):
        self.closed = True

    def _after(self, token: int) -> Logits:
        logits = np.zeros(VOCAB, dtype=np.float32)
        logits[(token + 1) % VOCAB] = 1.0
        return logits


def faulty(fault: str):
    """An `open_engine` with one fault, named on the command line."""

    def open_engine(folder: Path, threads: int | None = None) -> Engine:
        if fault == "chatter":
            print("python chatter")
            sys.stdout.flush()
            os.write(1, b'{"kind": "native chatter"}\n')
        elif fault == "bundle":
            raise BundleError("has no model", where="model.onnx", mend="Export the bundle again")
        elif fault == "bug":
            raise RuntimeError("a bug in the runtime")
        elif fault == "killed":
            print("about to use too much memory")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "exit":
            print("native library gives up", file=sys.stderr)
            sys.stderr.flush()
            os._exit(5)
        elif fault == "hang":
            while True:
                time.sleep(0.05)
        return FakeEngine(folder, threads)

    return open_engine


if __name__ == "__main__":
    fault = sys.argv[1] if len(sys.argv) > 1 else ""
    if fault == "noise":
        print(f"WARNING: loaded by process {os.getpid()}")
        print('{"no": "kind"}', flush=True)
    status = main(faulty(fault))
    if fault == "late":
        os.kill(os.getpid(), signal.SIGSEGV)
    raise SystemExit(status)
