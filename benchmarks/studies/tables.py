"""An export study as text: a table for the terminal, the whole of it in Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks import figures
from benchmarks.studies.outcome import Figure, Measured, Study

HEADER = ("subject", "MB", "KL", "KL 2", "TTFT ms", "tok/s", "RAM MB", "export s")
_ENDINGS = (
    "KL is to the float model, in nats: on encyclopaedic text, and (KL 2) on Python's documentation.",
    "TTFT is for {prompt} tokens, tok/s of decoding {decode} tokens, RAM the process's peak: medians of "
    "{rounds} rounds.",
)


def terminal_rows(study: Study) -> list[tuple[str, ...]]:
    """One row for each subject, under `HEADER`; they fit 80 columns."""
    rows = []
    for subject in study.subjects:
        found = study.figures[subject.name]
        rows.append(
            (
                subject.name,
                f"{subject.bytes / 1e6:.1f}",
                *(f"{quality.mean_kl:.4f}" for quality in subject.quality.values()),
                f"{found['ttft'].median * 1e3:.0f}",
                f"{found['decode_rate'].median:.1f}",
                f"{found['peak_rss'].median / 1e6:.0f}",
                f"{subject.made.wall_seconds:.0f}" if subject.made else "-",
            )
        )
    return rows


def notes(study: Study) -> list[str]:
    """What a reader of the table must know besides."""
    setting = study.setting
    lines = [
        line.format(prompt=setting.prompt_tokens, decode=setting.decode_tokens, rounds=setting.rounds)
        for line in _ENDINGS
    ]
    if study.disturbed:
        runs = sum(len(subject.runs) for subject in study.subjects)
        lines.append(
            f"{sum(study.disturbed.values())} of {runs} runs were disturbed by other work or uneven: their "
            "times are not to be relied on. Sizes, KL and perplexity are."
        )
    lines += [f"Left out: {name}: {reason}" for name, reason in study.left_out.items()]
    return lines


def markdown(study: Study) -> str:
    """The study as Markdown: files and their making, quality, speed and memory, ratios."""
    parts = ["# Export study", "", *_about(study), "## Files and their making", ""]
    parts += _table(("", "MB", "export s", "CPU s", "peak MB"), [_making(each) for each in study.subjects])
    parts += ["", "## Quality, against the float model", ""]
    parts += _quality(study)
    parts += [
        "",
        "## Speed and memory",
        "",
        "Medians over the rounds, 10th to 90th percentile in brackets.",
        "",
    ]
    parts += _table(
        ("", "load, cold s", "load, warm s", "TTFT ms", "decode tok/s", "peak RSS MB"),
        [_speed(name, found) for name, found in study.figures.items()],
    )
    parts += ["", f"## Ratios to {study.reference}", "", "Medians of the ratios within each round.", ""]
    parts += _table(
        ("", "load, cold", "load, warm", "TTFT", "decode rate", "peak RSS"),
        [(name, *(_ratio(figure) for figure in found.values())) for name, found in study.figures.items()],
    )
    return "\n".join([*parts, "", *(f"- {line}" for line in notes(study)), ""])


def _about(study: Study) -> list[str]:
    setting, machine = study.setting, study.machine
    facts = [
        ("Command", f"`{study.command}`"),
        ("Model", f"{setting.model}, sha256 {study.model_sha256[:16]}"),
        ("Machine", ", ".join(str(value) for key in ("cpu", "os") if (value := machine.get(key)))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in study.versions.items())),
        (
            "Setting",
            f"{setting.threads} thread(s), {setting.rounds} rounds, {setting.windows} windows of a text",
        ),
        ("Date", study.created),
    ]
    return [*_table(("", ""), facts), ""]


def _making(subject: Measured) -> tuple[str, ...]:
    made = subject.made
    size = f"{subject.bytes / 1e6:.1f}"
    if made is None:
        return (subject.name, size, "", "", "")
    peak = f"{made.peak_bytes / 1e6:.0f}" if made.peak_bytes else ""
    return (subject.name, size, f"{made.wall_seconds:.1f}", f"{made.cpu_seconds:.1f}", peak)


def _quality(study: Study) -> list[str]:
    texts = list(study.subjects[0].quality)
    header = ["", *(f"{text}: {what}" for text in texts for what in ("perplexity", "KL", "same top token"))]
    rows = []
    for subject in study.subjects:
        row = [subject.name]
        for text in texts:
            quality = subject.quality[text]
            row += [
                f"{quality.perplexity:.2f}",
                f"{quality.mean_kl:.4f}",
                figures.percent(quality.mean_same_top, 1),
            ]
        rows.append(row)
    exact = [f"{text} {study.subjects[0].quality[text].perplexity_float:.2f}" for text in texts]
    return [*_table(header, rows), "", f"Perplexity of the float model: {', '.join(exact)}."]


def _speed(name: str, found: dict[str, Figure]) -> tuple[str, ...]:
    return (
        name,
        _spread(found["load_cold"], 1, 2),
        _spread(found["load_warm"], 1, 2),
        _spread(found["ttft"], 1e3, 0),
        _spread(found["decode_rate"], 1, 1),
        _spread(found["peak_rss"], 1e-6, 0),
    )


def _spread(figure: Figure, scale: float, digits: int) -> str:
    low, middle, high = (f"{value * scale:.{digits}f}" for value in (figure.p10, figure.median, figure.p90))
    return f"{middle} ({low} to {high})"


def _ratio(figure: Figure) -> str:
    return "" if figure.ratio is None else f"{figure.ratio:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
