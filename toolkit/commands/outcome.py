"""What a whole run prints at its end: a short table, or JSON."""

from typing import TYPE_CHECKING, Any

import click

from toolkit.commands.common import megabytes, print_json, print_table, short_path

if TYPE_CHECKING:
    from toolkit.pipeline import RunResult


def show_outcome(result: "RunResult", as_json: bool) -> int:
    """Print the outcome of a run; returns the exit code (3 if a check fell short)."""
    if as_json:
        print_json(outcome(result))
    else:
        _print_outcome(result)
    return 3 if result.failures else 0


def outcome(result: "RunResult") -> dict[str, Any]:
    """The outcome as plain values."""
    from exporters.bundle import read_manifest

    manifest = read_manifest(result.bundle)
    speed = {name: value.median for name, value in result.benchmark.statistics.items()}
    return {
        "user": result.profile.user_id,
        "task": result.task.name,
        "primary_metric": result.task.primary_metric,
        "higher_is_better": result.task.higher_is_better(result.task.primary_metric),
        "arms": {arm.arm: arm.metrics for arm in result.arms},
        "chosen_adapter": result.finetuning.chosen,
        "verification": result.verification,
        "benchmark": {"median": speed, "validity": result.benchmark.validity.valid,
                      "reasons": result.benchmark.validity.reasons},
        "bytes": manifest.total_bytes,
        "bits_per_weight": manifest.precision.bits_per_weight,
        "failures": result.failures,
        "bundle": str(result.bundle),
        "adapter": str(result.adapter),
        "report": str(result.report),
    }  # fmt: skip


def _print_outcome(result: "RunResult") -> None:
    from exporters.bundle import read_manifest
    from toolkit.quality import ARTIFACT, BASE, HISTORY

    manifest = read_manifest(result.bundle)
    task, metric = result.task, result.task.primary_metric
    arrow = "higher is better" if task.higher_is_better(metric) else "lower is better"
    click.echo()
    click.echo(click.style(f"{result.profile.user_id}, {task.description}", bold=True))
    names = {BASE: "before", HISTORY: "before, with history in the prompt",
             result.chosen_arm.arm: f"after, in float ({result.finetuning.chosen})",
             ARTIFACT: f"after, in the {manifest.precision.name} bundle"}  # fmt: skip
    arms = [(names[arm.arm], arm) for arm in result.arms if arm.arm in names and arm.metrics]
    print_table(
        [(name, *(f"{value:.3f}" for value in arm.metrics.values())) for name, arm in arms],
        header=(f"{len(result.profile.queries)} held-out queries ({metric}: {arrow})", *arms[0][1].metrics),
    ) if arms else click.echo("No held-out query has a gold answer, so nothing could be scored.")
    click.echo()
    survival = result.verification.get("survival") or {}
    speed = result.benchmark.statistics
    rows = [
        ("size", f"{megabytes(manifest.total_bytes)}, {manifest.precision.bits_per_weight:g} bits a weight")
    ]
    if survival:
        rows.append(
            ("personalisation kept", f"correlation {survival['correlation_mean']:.2f}, size "
             f"{survival['size_mean']:.2f}, KL {survival['kl_mean']:.3f} nats")
        )  # fmt: skip
    rate = next((speed[name] for name in speed if name.startswith("decode_rate_at")), None)
    if rate is not None and "ttft" in speed:
        rows.append(
            ("speed", f"{rate.median:.0f} tokens/s decode, {1000 * speed['ttft'].median:.0f} ms to the first "
             f"token of {result.recipe.bench.prompt_tokens}")
        )  # fmt: skip
    if "peak_rss" in speed:
        rows.append(("memory", f"{megabytes(int(speed['peak_rss'].median))} peak"))
    rows += [("report", short_path(result.report)), ("bundle", short_path(result.bundle)),
             ("adapter", short_path(result.adapter))]  # fmt: skip
    print_table(rows)
    if not result.benchmark.validity.valid:
        click.echo(f"The speed figures are marked invalid: {'; '.join(result.benchmark.validity.reasons)}.")
    for failure in result.failures:
        click.echo(click.style(f"Check fell short: {failure}", fg="red"), err=True)
    if result.failures:
        click.echo("A finer precision keeps more: --set export.precision=int8 (or fp32).", err=True)
