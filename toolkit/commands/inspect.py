"""`edgeplm inspect`: what is in a bundle."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.commands.common import bundle_argument, json_option, megabytes, print_json, print_table
from toolkit.commands.outcome import scheme_rows, verification_rows

if TYPE_CHECKING:
    from exporters.bundle import PrecisionInfo


@click.command(short_help="What is in a bundle.")
@bundle_argument
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Show BUNDLE's manifest: model, precision, files, adapters, verification."""
    from exporters.bundle import read_manifest

    manifest = read_manifest(bundle)
    if as_json:
        print_json(asdict(manifest))
        return
    base, precision = manifest.base_model, manifest.precision
    preset = f" ({precision.preset})" if precision.preset else ""
    rows = [
        ("name", manifest.name),
        ("made", f"{manifest.created} by edgeplm {manifest.edgeplm_version}"),
        ("base model", f"{base.source} ({base.architecture}, {base.parameters / 1e6:.0f} M parameters)"),
        ("licence", base.licence),
        ("runtime", f"{manifest.runtime.name} {manifest.runtime.version}"),
        ("precision", f"{precision.name}{preset}, {precision.bits_per_weight:g} bits a weight"),
        *scheme_rows("", precision.scheme),
        *_calibration_row(precision),
        ("context", f"{manifest.context_length} tokens"),
        ("task", str((manifest.task or {}).get("name", "none"))),
    ]
    rows += [
        ("adapter", f"{adapter.name}, {adapter.kind}, rank {adapter.rank}, alpha {adapter.alpha:g}")
        for adapter in manifest.adapters
    ]
    if made := manifest.provenance:
        examples = f"{made.real_examples} real and {made.synthetic_examples} synthetic examples"
        rows.append(("trained on", examples))
    if manifest.verification:
        rows.append(("verified", "passed" if manifest.verification.get("passed") else "FELL SHORT"))
        rows += verification_rows(manifest.verification)
    print_table(rows)
    click.echo()
    print_table(
        [(megabytes(file.bytes).rjust(9), file.sha256[:12], file.path) for file in manifest.files],
        header=("     size", "sha256", "file"),
    )
    listed = {file.path for file in manifest.files} | {"manifest.json"}
    for extra in sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()):
        if extra not in listed:
            click.echo(f"Not in the manifest: {extra}", err=True)


def _calibration_row(precision: "PrecisionInfo") -> list[tuple[str, str]]:
    about = precision.calibration
    if about is None:
        return []
    return [("", f"calibrated on {about.windows} windows of text, {about.own} of them people's own examples")]
