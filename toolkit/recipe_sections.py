"""The sections of a recipe: every field with its default, limits and help, declared once.

Recipes are validated by what is written here, `edgeplm init` writes it out and docs/recipe.md says it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.schema import Conflict, Settings, setting

_DEVICE = re.compile(
    r"local|adb:[\w.:-]+|ssh://(\w[\w.-]*@)?(\w[\w.-]*|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?", re.ASCII
)


def _are_devices(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names) > 0 and all(_DEVICE.fullmatch(name) for name in names)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(Settings):
    """The LoRA adapter and its training."""

    rank: int = setting(8, "LoRA rank r.", at_least=1, at_most=256)
    alpha: float = setting(16.0, "LoRA alpha; the adapter's change is scaled by alpha / rank.", above=0)
    dropout: float = setting(
        0.0, "Dropout probability on the way into the LoRA matrices.", at_least=0, below=1
    )
    targets: tuple[str, ...] = setting(
        ("all-linear",),
        "Target modules: names of linear layers such as q_proj, or all-linear for all but the output head.",
    )
    rslora: bool = setting(
        False, "Rank-stabilised LoRA: scale the change by alpha / sqrt(rank) instead (arXiv 2312.03732)."
    )
    dora: bool = setting(
        False,
        "DoRA: learn the length of each weight row beside its direction (arXiv 2402.09353). Slower, and for "
        "merged bundles only.",
    )
    learning_rate: float = setting(5e-4, "Peak learning rate.", above=0)
    schedule: str = setting(
        "linear",
        "The learning rate after the warm-up: falling to 0 in a line or half a cosine, or constant.",
        choices=("linear", "cosine", "constant"),
    )
    epochs: int = setting(6, "Passes over the training examples.", at_least=1)
    batch_size: int = setting(4, "Examples in one optimiser step.", at_least=1)
    warmup: float = setting(
        0.1, "Share of all steps in which the learning rate rises from 0 to its peak.", at_least=0, below=1
    )
    weight_decay: float = setting(0.0, "Weight decay of the optimiser.", at_least=0)
    max_grad_norm: float = setting(1.0, "L2 norm to which gradients are clipped.", above=0)
    tokens_per_pass: int = setting(
        1024,
        "Tokens in one forward and backward pass, counted after common beginnings are shared; bounds memory. "
        "A batch that is larger is computed in several passes, with the same gradients.",
        at_least=1,
    )
    max_length: int = setting(
        512,
        "Longest training example, prompt and answer together, in tokens.",
        at_least=16,
    )
    validation: float = setting(
        0.2,
        "Share of the history held out of training, to stop in time and to choose between adapters; the "
        "queries never take part.",
        at_least=0,
        at_most=0.5,
    )
    patience: int = setting(
        3,
        "Epochs in a row without a lower loss on the held-out part of the history after which training "
        "stops; 0 never stops early. The best epoch's adapter is kept either way.",
        at_least=0,
    )
    synthetic_weight: float = setting(
        1.0,
        "Weight of a synthetic example's loss; a real example's is 1. How many there are is `augment.ratio`.",
        above=0,
    )
    quantization_aware: bool = setting(
        False,
        "Train on the base as the export quantises it, calibrated and on the same grid, so that the adapter "
        "learns with the rounding that it will meet.",
    )
    choose: str = setting(
        "auto",
        "Which adapter is kept. `real`: the one trained on the history alone. `real+synthetic`: on the "
        "history and the synthetic examples. `auto`: the better of both on the held-out part of the history.",
        choices=("auto", "real", "real+synthetic"),
    )
    task_adapter: str | None = setting(
        None,
        "A PEFT adapter folder that is merged into the base model first (one for the task, trained on many "
        "people); the person's adapter is trained on top of it, and the bundle holds both.",
    )
    guard: bool = setting(
        True,
        "Hold back an adapter that is not better than the base model on the held-out part of the history: "
        "the run then ends with exit code 3 and without a bundle.",
    )
    history_in_prompt: int = setting(
        0,
        "Retrieval-augmented prompts: history examples, found by BM25, before each example in training and "
        "before each query that the adapter is asked. Only those that are trained on are retrieved.",
        at_least=0,
        at_most=64,
    )
    retrieved: int = setting(
        4,
        "For the comparison with the base model that sees the history: history examples in each prompt, "
        "found by BM25.",
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True)
class ExportRecipe(Settings):
    """The bundle that is made of base model and adapter."""

    runtime: str = setting(
        "onnx",
        "The runtime that the bundle is made for: ONNX Runtime GenAI or ExecuTorch (XNNPACK).",
        choices=("onnx", "executorch"),
    )
    form: str = setting(
        "merged",
        "How the adapter is shipped. `merged`: in the weights, one bundle a person, fastest. `attached`: a "
        "small file beside a base that everybody shares, switched at run time.",
        choices=("merged", "attached"),
    )
    preset: str = setting(
        "balanced",
        "How finely weights are kept. `smallest`: int4, with int8 for the most frequent tokens. `balanced`: "
        "int4, with int8 for head and embedding and the layers that lose most. `faithful`: int8. `exact`: "
        "the grid of a base that is Q4_1 or Q8_0 already, without loss.",
        choices=("smallest", "balanced", "faithful", "exact"),
    )
    precision: str | None = setting(
        None,
        "Precision of the linear layers, in place of the preset's; fp32 leaves everything in float.",
        choices=("int4", "int8", "fp32"),
    )
    calibration: str = setting(
        "own",
        "Text that the quantiser is calibrated on. `own`: the person's history and neutral text, half and "
        "half. `neutral`: neutral text. `none`: weights are rounded one by one.",
        choices=("own", "neutral", "none"),
    )
    windows: int = setting(
        64,
        "Windows of 256 tokens to calibrate on; more take longer and lose less.",
        at_least=1,
        at_most=1024,
    )
    context_length: int = setting(
        1024, "Context length of the bundle, prompt and answer together, in tokens.", at_least=64
    )

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[Conflict]:
        """`exact` is the base's own grid: ONNX Runtime's only, and no adapter can be merged into it."""
        if (values["runtime"], values["form"], values["precision"]) == ("executorch", "attached", "fp32"):
            yield Conflict(
                ("precision", "form"), "found fp32; accepted with executorch, attached: int4 or int8"
            )
        if values["preset"] != "exact":
            return
        if values["runtime"] != "onnx":
            yield Conflict(("preset", "runtime"), "found exact; accepted with executorch: the other presets")
        if values["form"] != "attached":
            yield Conflict(("preset", "form"), "found exact; accepted with merged: the other presets")
        if values["precision"] is not None:
            yield Conflict(("precision", "preset"), "found one; accepted with exact: null")


@dataclass(frozen=True, kw_only=True)
class VerifyRecipe(Settings):
    """Whether the personalisation survived the export; a bundle beyond these limits fails."""

    min_correlation: float = setting(
        0.85,
        "Lowest correlation between the change that the adapter makes to the logits in the bundle and the "
        "one that it makes in float.",
        at_least=-1,
        at_most=1,
    )
    min_size: float = setting(
        0.7, "Lowest size of the bundle's change, as a ratio to the size of the float change.", at_least=0
    )
    max_size: float = setting(
        1.4, "Highest size of the bundle's change, as a ratio to the size of the float change.", above=0
    )
    max_kl: float = setting(
        0.2,
        "Highest KL divergence, in nats, of the bundle from the float personalised model, at the answer's "
        "positions.",
        at_least=0,
    )
    max_metric_loss: float = setting(
        0.15,
        "Most by which the bundle may be worse than the float personalised model in the task's primary "
        "metric: an absolute difference in the metric's own unit (0.15 is 15 points of accuracy, or a MAE "
        "that is 0.15 higher).",
        at_least=0,
    )
    prompts: int = setting(8, "Prompts that are compared.", at_least=1)
    continuation: int = setting(
        12, "Positions of the answer that are compared in each, in tokens.", at_least=1
    )

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[Conflict]:
        """The two limits of the size must leave room between them."""
        low, high = values["min_size"], values["max_size"]
        if low >= high:
            yield Conflict(
                ("max_size", "min_size"), f"found {high}; accepted: number above verify.min_size, {low}"
            )


@dataclass(frozen=True, kw_only=True)
class BenchRecipe(Settings):
    """How the bundle is measured."""

    devices: tuple[str, ...] = setting(
        ("local",),
        "The devices that are measured: this machine, boards over ssh, phones over adb; all at once. "
        "On the first one the bundle also answers the held-out queries.",
        accepts="different ones of local, ssh://user@host[:port] and adb:SERIAL",
        test=_are_devices,
    )
    threads: int | None = setting(
        None, "CPU threads of the runtime; null leaves their number to the runtime.", at_least=1
    )
    prompt_tokens: int = setting(
        128, "Length of the prompt, in tokens: prefill is measured on it.", at_least=1
    )
    decode_tokens: int = setting(64, "Tokens decoded after the prompt.", at_least=1)
    repeats: int = setting(5, "Measured repetitions.", at_least=1)
    warmup: int = setting(1, "Repetitions before these, which are discarded.", at_least=0)
    settle: float = setting(
        30.0,
        "Longest wait, in seconds, for the machine to be at rest before the first measurement; one that does "
        "not come to rest is measured all the same and marked invalid.",
        at_least=0,
    )
