"""Decode rates of several artifacts taken in turn, which tells differences of one per cent.

    python -m benchmarks.studies.in_turn REFERENCE OTHER... --blocks 60

Fresh processes, as the export study has them, are what a user meets, but what memory each happens to get
scatters their rates by five per cent. Here all artifacts are open in one process, and short blocks of tokens
go round them, a block each, every round beginning with the next one: what the machine does meanwhile meets
all of them alike. Ratios are taken within a round.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.stats import Interval, median, median_interval
from benchmarks.studies.peers import open_subject
from runtimes.engine import Engine
from runtimes.latency import seeded_ids
from toolkit.cli import run_to_exit
from toolkit.commands.common import json_option, print_json, print_paragraph, print_table, watch
from toolkit.errors import EdgePLMError
from toolkit.progress import SILENT, Progress

_WARM_UP = 2  # rounds
_COUNT = click.IntRange(min=1)


@dataclass(frozen=True)
class Rate:
    """Decode rate in tokens a second, and its ratio to the reference's, medians over the rounds."""

    name: str
    tokens_per_second: float
    ratio: Interval


def in_turn(
    engines: Mapping[str, Engine], *, blocks: int, tokens: int, prompt: int, progress: Progress = SILENT
) -> list[Rate]:
    """The rates of `engines` by name; the first is what ratios refer to.

    `blocks` of `tokens` decode steps each, after a prompt of `prompt` tokens: seeded random ids, the same for
    all. Raises EdgePLMError if an engine's context does not hold them.
    """
    for name, engine in engines.items():
        if prompt + tokens >= engine.context_length:
            raise EdgePLMError(
                f"{prompt} and {tokens} tokens do not fit its context of {engine.context_length}",
                where=name,
                mend="Lower --prompt or --tokens",
            )
    vocabulary = min(engine.vocab_size for engine in engines.values())
    ids = seeded_ids(prompt + tokens, vocabulary)
    names = list(engines)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with progress.step("Decoding", total=_WARM_UP + blocks, unit="rounds") as advance:
        for number in range(_WARM_UP + blocks):
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                spent = _block(engines[name], ids[:prompt], ids[prompt:])
                if number >= _WARM_UP:
                    seconds[name].append(spent)
            advance(1)
    reference = np.array(seconds[names[0]])
    return [
        Rate(
            name,
            tokens / median(seconds[name]),
            median_interval((reference / np.array(seconds[name])).tolist()),
        )
        for name in names
    ]


def _block(engine: Engine, prompt: Sequence[int], tokens: Sequence[int]) -> float:
    """Seconds that the decode steps take, without the prompt."""
    engine.prefill(prompt)
    started = time.perf_counter()
    for token in tokens:
        engine.decode(token)
    return time.perf_counter() - started


def _opened(artifact: str, threads: int) -> Engine:
    """The engine of a folder, or of FOLDER@NAME with that attached adapter."""
    folder, name = Path(artifact), None
    if not folder.exists() and "@" in artifact:
        text, _, name = artifact.rpartition("@")
        folder = Path(text)
    if not folder.is_dir():
        raise EdgePLMError(
            "there is no such folder", where=str(folder), mend="Name a bundle, or another tool's artifact"
        )
    engine = open_subject(folder, threads)
    if name is not None:
        engine.use_adapter(name)
    return engine


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.argument("artifacts", nargs=-1, required=True, metavar="FOLDER[@ADAPTER]...")
@click.option("--blocks", type=_COUNT, default=60, show_default=True, help="Of every artifact.")
@click.option("--tokens", type=_COUNT, default=16, show_default=True, help="Decode steps of a block.")
@click.option("--prompt", type=_COUNT, default=128, show_default=True, help="Tokens before a block.")
@click.option("--threads", type=_COUNT, default=1, show_default=True)
@json_option
def command(
    artifacts: tuple[str, ...], blocks: int, tokens: int, prompt: int, threads: int, as_json: bool
) -> int:
    """Decode rates of artifacts in turn within one process.

    Ratios are to the first. With @ADAPTER an attached adapter is in use.
    """
    if len(set(artifacts)) < len(artifacts):
        raise EdgePLMError("an artifact is named twice", mend="Name each once; a copy needs its own folder")
    progress = watch()
    with progress.step("Loading", total=len(artifacts), unit="artifacts") as advance:
        engines = {}
        for artifact in artifacts:
            engines[artifact] = _opened(artifact, threads)
            advance(1)
    try:
        rates = in_turn(engines, blocks=blocks, tokens=tokens, prompt=prompt, progress=progress)
    finally:
        for engine in engines.values():
            engine.close()
    if as_json:
        print_json(
            [
                {
                    "artifact": rate.name,
                    "tokens_per_second": rate.tokens_per_second,
                    "ratio": rate.ratio.estimate,
                    "low": rate.ratio.low,
                    "high": rate.ratio.high,
                }
                for rate in rates
            ]
        )
        return 0
    rows = [
        (
            f"{rate.tokens_per_second:.1f}",
            f"{rate.ratio.estimate:.3f}",
            f"{rate.ratio.low:.3f} to {rate.ratio.high:.3f}",
            rate.name,
        )
        for rate in rates
    ]
    print_table(rows, header=("tok/s", "ratio", "95 %", "artifact"))
    print_paragraph(
        f"Medians over {blocks} blocks of {tokens} tokens after {prompt}, {threads} thread(s); ratios to the "
        "first, within a round, with bootstrap intervals."
    )
    return 0


def main() -> None:
    """Run it; errors a user can mend are one line on standard error."""
    run_to_exit(lambda: command.main(standalone_mode=False))


if __name__ == "__main__":
    main()
