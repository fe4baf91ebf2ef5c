"""Made-up benchmark samples, results and reports: plausible, seeded, and free of any model."""

import math
import random

from benchmarks.report import (
    Arm,
    Augmentation,
    Check,
    Curve,
    ExportedFile,
    Query,
    Refused,
    Report,
    SelectionPart,
    SelectionStep,
    TaskFacts,
    TeacherPart,
    Verification,
)
from benchmarks.results import BundleFacts, Environment, Result, Setting
from benchmarks.validity import judge

FACTS = {
    "machine": "aarch64",
    "board": "Small Board 5",
    "cpu": "Cortex-A76",
    "cores_physical": 4,
    "cores_logical": 4,
    "max_mhz": 2400.0,
    "memory_bytes": 8_454_000_000,
    "kernel": "Linux 6.6.31",
    "os": "Board OS 1",
}


def reading(when, clock, **changes):
    """One sensors sample of a quiet, cool board at `clock` seconds."""
    return {
        "kind": "sensors",
        "t": clock,
        "when": when,
        "temperatures": {"cpu-thermal": {"celsius": 48 + clock / 3, "limit": 80.0}},
        "governors": ["performance"] * 4,
        "frequency_mhz": [2400.0] * 4,
        "allowed_mhz": [2400.0] * 4,
        "hardware_mhz": [2400.0] * 4,
        "throttle_flags": 0,
        "throttle_events": None,
        "load_average": [0.12, 0.2, 0.3],
        "processor": {"clock": clock, "busy": 3.6 * clock, "steal": 0.0, "own": 3.55 * clock},
        "memory_available": 5_100_000_000,
        "memory_total": 8_400_000_000,
        "swap_used": 0,
        "major_faults": 12,
        **changes,
    }


def memory(when, **changes):
    """One memory sample."""
    sizes = {"peak_rss": 231_000_000, "rss": 220_000_000, "pss": 205_000_000, "swapped": 0}
    return {"kind": "memory", "t": 0.6, "when": when, **sizes, **changes}


def load(state, seconds):
    """One load sample."""
    versions = {"runtime": "onnxruntime-genai", "runtime_version": "0.18.0"}
    return {
        "kind": "load", "t": 1.0, "state": state, "seconds": seconds, "context_length": 2048, **versions
    }  # fmt: skip


def samples(repeats=5, slow=(), during=None):
    """A whole run; `slow` holds a factor for each repeat, `during` changes the readings between them."""
    chance = random.Random(1)
    versions = {"numpy": "2.4.6", "onnxruntime-genai": "0.18.0"}
    hello = {"kind": "hello", "t": 0.0, "python": "3.11.7", "versions": versions, "allowed_cores": 4}
    found = [hello, reading("before", 0.5), memory("before load"), load("cold", 0.92), memory("after load")]
    for repeat in range(-1, repeats):
        if repeat == 0:
            found.append(reading("start", 2.0))
        which = {"repeat": repeat, "warmup": repeat < 0, "t": 2.0}
        factor = slow[repeat] if 0 <= repeat < len(slow) else 3.0 if repeat < 0 else 1.0
        seconds = 0.31 * factor * (1 + chance.gauss(0, 0.012))
        found.append(
            {
                "kind": "prefill", **which, "tokens": 128, "seconds": seconds,
                "sampling_seconds": 4e-4, "ttft": seconds + 4e-4,
            }
        )  # fmt: skip
        for depth in (0, 256):
            step = 0.0232 * (1 + depth / 2500) * factor
            steps = [step * (1 + abs(chance.gauss(0, 0.03))) for _ in range(64)]
            found.append({"kind": "decode", **which, "depth": depth, "tokens": 64, "seconds": steps})
        changes = (during or {}) if repeat == repeats - 1 else {}
        found.append(reading("during", 5.0 + 3 * repeat, repeat=repeat, warmup=repeat < 0, **changes))
    return [
        *found,
        memory("after run"),
        load("warm", 0.41),
        reading("after", 31.0),
        {"kind": "done", "t": 32.0},
    ]


def result(**changes):
    """A benchmark's result, judged."""
    measured = samples(**changes)
    bundle = BundleFacts(
        "ines-int4", "ab12" * 16, 121_000_000, "org/small-lm", "onnxruntime-genai", "int4", ["ines (merged)"]
    )
    versions = {"python": "3.11.7", "onnxruntime-genai": "0.18.0"}
    where = Environment(
        "local", FACTS, bundle, versions, ["performance"], 48.2, 61.4, 57.0, 0.12, "0f3c2a9d1e"
    )
    setting = Setting(4, 128, 64, 5, 1, [0, 256])
    return Result("2026-03-04T10:11:12+00:00", setting, measured, where, judge(measured, 4))


def arms(queries=40):
    """Five arms that guess ratings, each better than the one before; and the gold ratings."""
    chance = random.Random(3)
    golds = [chance.choice([1, 2, 3, 4, 5]) for _ in range(queries)]

    def arm(name, role, spread):
        answers = [max(1, min(5, gold + round(chance.gauss(0, spread)))) for gold in golds]
        errors = tuple(float(abs(a - g)) for a, g in zip(answers, golds, strict=True))
        metrics = {
            "mae": sum(errors) / queries,
            "rmse": math.sqrt(sum(error * error for error in errors) / queries),
        }
        return Arm(name, role, metrics, errors, tuple(map(str, answers)))

    made = (
        arm("base", "base", 1.6),
        arm("base + history", "history", 1.0),
        arm("adapter, real examples", "adapter", 0.75),
        arm("adapter, real + synthetic", "synthetic", 0.55),
        arm("int4 bundle, in its runtime", "artifact", 0.55),
    )
    return made, golds


def verification(**changes):
    """A verification that passes."""
    chance = random.Random(4)
    correlations = tuple(min(0.999, 0.965 + chance.gauss(0, 0.018)) for _ in range(40))
    across = [chance.gauss(0, 1.1) for _ in range(60)]
    figures = {
        "checks": (Check("mean correlation", 0.965, 0.9), Check("KL divergence", 0.02, 0.1, at_least=False)),
        "correlation_mean": 0.965,
        "correlation_worst": min(correlations),
        "size_ratio": 0.972,
        "kl": 0.0213,
        "top1_agreement": 0.963,
        "perplexity_float": 12.41,
        "perplexity_artifact": 12.88,
        "correlations": correlations,
        "sizes": tuple(0.97 + chance.gauss(0, 0.04) for _ in range(40)),
        "scatter": tuple((x, 0.96 * x + chance.gauss(0, 0.2)) for x in across),
    }
    return Verification(**(figures | changes))


def report(**changes):
    """A report with every part."""
    made, golds = arms()
    losses = tuple(2.9 * math.exp(-step / 28) + 0.6 for step in range(120))
    parts = {
        "title": "Product ratings in the manner of ines",
        "user": "ines",
        "task": TaskFacts("lamp-3", "predict the star rating of a review.", "mae", False),
        "created": "2026-03-04T10:15:00+00:00",
        "arms": made,
        "queries": tuple(Query(f"Review number {n}", str(gold)) for n, gold in enumerate(golds)),
        "curves": (Curve("real + synthetic", losses), Curve("real only", losses[::2])),
        "augmentation": Augmentation(
            asked=240,
            answered=232,
            dropped={"near duplicate": 21, "label does not fit": 13},
            kept=198,
            teachers=(
                TeacherPart("big-model at api.example.org/v1", 52, 1, 130, 81_200, 0.0934),
                TeacherPart("org/small-lm (0123456789ab)", 9, 0, 68, 9_100, 0.0),
            ),
            refused=(Refused("near duplicate", "nearly the same as 'it broke'", "It broke twice.", "1"),),
            distribution=(("1", 0.5, 0.4), ("5", 0.5, 0.6)),
            hidden={"person": 12, "email": 1},
            audit="runs/ines/audit.jsonl",
            failures={"big-model at api.example.org/v1: fails (status 500)": 1},
            selection=SelectionPart(
                "small-encoder==1.0",
                211,
                198,
                (
                    SelectionStep("semantic_duplicate", 211, 13, True, "cosine above 0.9"),
                    SelectionStep("style", 198, 0, False, "8 history examples, and 19 are needed"),
                ),
                ((0.0132, 0.008), (0.0055, 0.152)),
                (0.71, 0.49, 0.65, 0.5),
                {"history": [[0.1, 0.2], [0.0, -0.1]], "kept": [[0.2, 0.1]], "refused": [[-0.4, 0.3]]},
            ),
        ),
        "files": (ExportedFile("model.onnx.data", 118_400_000, "int4"), ExportedFile("model.onnx", 412_000)),
        "float_bytes": 540_000_000,
        "verification": verification(),
        "benchmarks": (result(),),
        "environment": {"torch": "2.13.0"},
        "provenance": {"Base model": "org/small-lm"},
        "command": "edgeplm run recipe.yaml",
        "caveats": ("Forty queries of one person.",),
    }
    return Report(**(parts | changes))
