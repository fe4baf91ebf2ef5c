"""What a whole run prints at its end: a short table, or JSON."""

from typing import TYPE_CHECKING, Any

import click

from toolkit.commands.common import megabytes, print_json, print_paragraph, print_table, short_path

if TYPE_CHECKING:
    from benchmarks.results import Result
    from exporters.bundle import Manifest
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

    found = {
        "user": result.profile.user_id,
        "task": result.task.name,
        "primary_metric": result.task.primary_metric,
        "higher_is_better": result.task.higher_is_better(result.task.primary_metric),
        "arms": {arm.arm: arm.metrics for arm in result.arms},
        "chosen_adapter": result.finetuning.chosen,
        "synthetic_examples": len(result.augmentation.kept) if result.augmentation else 0,
        "verification": result.verification,
        "failures": result.failures,
        "bundle": None,
        "adapter": str(result.adapter),
        "report": str(result.report),
    }
    if result.bundle is None:
        return found
    manifest = read_manifest(result.bundle)
    return {
        **found,
        "benchmarks": [_speed_data(each) for each in result.benchmarks],
        "bytes": manifest.total_bytes,
        "bits_per_weight": manifest.precision.bits_per_weight,
        "bundle": str(result.bundle),
    }


def _speed_data(measured: "Result") -> dict[str, Any]:
    validity = measured.validity
    return {
        "device": measured.environment.device,
        "median": {name: value.median for name, value in measured.shown.items()},
        "validity": validity.valid,
        "reasons": validity.reasons,
    }


def _print_outcome(result: "RunResult") -> None:
    from exporters.bundle import read_manifest

    manifest = read_manifest(result.bundle) if result.bundle else None
    click.echo()
    click.echo(click.style(f"{result.profile.user_id}: {result.task.description}", bold=True))
    _print_arms(result, manifest)
    click.echo()
    paths = [("report", short_path(result.report)), ("adapter", short_path(result.adapter))]
    if manifest is None or result.bundle is None:
        print_table(paths)
        _note_nothing_kept(result)
        for failure in result.failures:
            print_paragraph(f"Check fell short: {failure}", err=True, fg="red")
        print_paragraph(
            "There is no bundle. What helps: more examples, another finetune.learning_rate, more "
            "finetune.epochs; or ship it all the same with --set finetune.guard=false.",
            err=True,
        )
        return
    paths.insert(1, ("bundle", short_path(result.bundle)))
    print_table([("size", size_text(manifest)), *_kept_rows(result), *_speed_rows(result), *paths])
    for measured in result.benchmarks:
        if not measured.validity.valid:
            where = f" on {measured.environment.device}" if len(result.benchmarks) > 1 else ""
            print_paragraph(f"Speed{where} is marked invalid: {'; '.join(measured.validity.reasons)}.")
    _note_nothing_kept(result)
    for failure in result.failures:
        print_paragraph(f"Check fell short: {failure}", err=True, fg="red")
    if result.failures:
        print_paragraph(advice(manifest, "--set export."), err=True)


def _note_nothing_kept(result: "RunResult") -> None:
    """Say so where synthetic examples were wanted and there are none: the adapter is one of real examples."""
    if result.augmentation and (why := result.augmentation.nothing_kept):
        print_paragraph(f"Note: trained on real examples alone: {why}.", err=True)


def _print_arms(result: "RunResult", manifest: "Manifest | None") -> None:
    from toolkit.quality import ARTIFACT, BASE, HISTORY

    names = {
        BASE: "before",
        HISTORY: "before, with history in the prompt",
        result.chosen_arm.arm: f"after, in float ({result.finetuning.chosen})",
        ARTIFACT: f"after, in the {manifest.precision.name if manifest else ''} bundle",
    }
    arms = [(names[arm.arm], arm.metrics) for arm in result.arms if arm.arm in names and arm.metrics]
    if not arms:
        click.echo("No held-out query has a gold answer, so nothing could be scored.")
        return
    metric = result.task.primary_metric
    direction = "higher" if result.task.higher_is_better(metric) else "lower"
    queries = len(result.profile.queries)
    held_out = "1 held-out query" if queries == 1 else f"{queries} held-out queries"
    print_table(
        [(name, *(f"{value:.3f}" for value in metrics.values())) for name, metrics in arms],
        header=(f"{held_out} ({direction} is better)", *arms[0][1]),
    )


def _kept_rows(result: "RunResult") -> list[tuple[str, str]]:
    survival = result.verification.get("survival")
    if not survival:
        return []
    correlation, size = survival["correlation_mean"], survival["size_mean"]
    return [
        ("effect kept", f"correlation {correlation:.2f}, size {size:.2f}, KL {survival['kl_mean']:.3f} nats")
    ]


def _speed_rows(result: "RunResult") -> list[tuple[str, str]]:
    rows = []
    for measured in result.benchmarks:
        speed = measured.shown
        if len(result.benchmarks) > 1:
            rows.append(("device", measured.environment.device))
        rate = next((speed[name] for name in speed if name.startswith("decode_rate_at")), None)
        if rate is not None and "ttft" in speed:
            ttft, prompt = 1000 * speed["ttft"].median, measured.setting.prompt_tokens
            first = f"first token after {ttft:.0f} ms (prompt of {prompt})"
            rows.append(("speed", f"{rate.median:.0f} tokens/s, {first}"))
        if "peak_rss" in speed:
            peak = megabytes(int(speed["peak_rss"].median))
            rows.append(("memory", f"{peak} peak, runtime and Python included"))
    return rows


def advice(manifest: "Manifest", flag: str) -> str:
    """What keeps more of the personalisation than this bundle; `flag` is how a setting is given."""
    space = " " if flag == "--" else "="
    ways = []
    if manifest.precision.name == "int4":
        about = manifest.precision.calibration
        if about is None:
            ways.append(f"calibrated weights ({flag}calibration{space}own)")
        elif not about.own:
            given = "--profile and --task" if flag == "--" else f"{flag}calibration{space}own"
            ways.append(f"calibration on the person's own examples ({given})")
        finer = "balanced" if manifest.precision.preset == "smallest" else "faithful"
        ways.append(f"the finer preset ({flag}preset{space}{finer})")
    if manifest.runtime.name == "onnxruntime-genai":
        if all(adapter.kind == "merged" for adapter in manifest.adapters):
            ways.append(f"an attached adapter ({flag}form{space}attached)")
        if manifest.precision.name == "int4":
            ways.append(f"attached to a base that is Q4_1 or Q8_0 already, {flag}preset{space}exact")
    if manifest.precision.name != "fp32":
        ways.append("quantisation-aware training (finetune.quantization_aware: true)")
    return f"What keeps more: {'; '.join(ways)}." if ways else "Float keeps all there is to keep."


def size_text(manifest: "Manifest") -> str:
    """A bundle's size in words."""
    return f"{megabytes(manifest.total_bytes)}, {manifest.precision.bits_per_weight:g} bits a weight"


def scheme_rows(label: str, scheme: str) -> list[tuple[str, str]]:
    """A precision in words, its parts a row each."""
    first, *others = scheme.split("; ")
    return [(label, first), *(("", other) for other in others)]


def verification_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of a verification, a row each; a manifest from elsewhere may lack some of them."""
    try:
        return _figures(found)
    except (KeyError, TypeError, ValueError):
        return [("", "its figures cannot be read")]


def _figures(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if survival := found.get("survival"):
        mean, worst = survival["correlation_mean"], survival["correlation_worst"]
        same = 100 * survival["same_top_mean"]
        rows += [
            ("effect kept", f"correlation {mean:.3f} (worst {worst:.3f}), size {survival['size_mean']:.2f}"),
            ("KL to float", f"{survival['kl_mean']:.4f} nats, same top token {same:.0f} %"),
        ]
    perplexity = f"{found['perplexity_artifact']:.2f} (float {found['perplexity_float']:.2f})"
    rows.append(("perplexity", f"{perplexity}, KL {found['kl_neutral']:.3f} on neutral text"))
    return rows
