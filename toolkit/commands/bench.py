"""`edgeplm bench`: latency and memory of a bundle on a device."""

from pathlib import Path

import click

from toolkit.commands.common import (
    PATH,
    adapter_option,
    bundle_argument,
    force_option,
    json_option,
    megabytes,
    print_table,
    short_path,
    watch,
)


@click.command(short_help="Latency and memory of a bundle on a device.")
@bundle_argument
@click.option("--device", default="local", show_default=True, help="local; ssh:// and adb: come later.")
@click.option("--threads", type=int, help="CPU threads  [default: the runtime's choice].")
@adapter_option
@click.option("--prompt-tokens", type=int, default=128, show_default=True)
@click.option("--decode-tokens", type=int, default=64, show_default=True)
@click.option("--repeat", "repeats", type=int, default=5, show_default=True)
@click.option("--warmup", type=int, default=1, show_default=True, help="Repetitions that are discarded.")
@click.option("--out", type=PATH, help="Also write the result, raw samples included, to this JSON file.")
@force_option
@json_option
def command(
    bundle: Path,
    device: str,
    threads: int | None,
    adapter: str | None,
    prompt_tokens: int,
    decode_tokens: int,
    repeats: int,
    warmup: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Measure BUNDLE: load, time to first token, prefill, decode, memory.

    A run that was throttled or disturbed is marked invalid and says why (exit
    code 3).
    """
    from benchmarks.protocol import benchmark
    from benchmarks.results import write_result
    from runtimes.devices import parse_device
    from toolkit.files import refuse_to_overwrite

    if out:
        refuse_to_overwrite(out, force)
    result = benchmark(
        bundle,
        parse_device(device),
        threads=threads,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        repeats=repeats,
        warmup=warmup,
        progress=watch(),
    )
    if out:
        write_result(result, out)
    if as_json:
        click.echo(result.to_json(), nl=False)
    else:
        rows = []
        for name, statistic in result.statistics.items():
            if name.startswith("decode_step_at"):
                continue  # in the JSON; the rate says the same here
            if statistic.unit == "bytes":
                median, spread = megabytes(int(statistic.median)), ""
            else:
                median = f"{statistic.median:.4g} {statistic.unit}"
                spread = f"{statistic.p10:.4g} to {statistic.p90:.4g}"
            rows.append((name.replace("_", " "), median, spread, str(len(statistic.values))))
        print_table(rows, header=("figure", "median", "10th to 90th percentile", "samples"))
        if out:
            click.echo(f"Result: {short_path(out)}")
    for reason in result.validity.reasons:
        click.echo(f"Marked invalid: {reason}", err=True)
    return 0 if result.validity.valid else 3
