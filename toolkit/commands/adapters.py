"""`edgeplm adapters`: people's adapters in a bundle whose base has slots for them."""

from dataclasses import asdict
from pathlib import Path

import click

from toolkit.commands.common import (
    PATH,
    bundle_argument,
    force_option,
    json_option,
    megabytes,
    print_json,
    print_table,
    short_path,
)


@click.group(short_help="More people in one bundle: add, list, remove.")
def command() -> None:
    """Put people's adapters into a bundle that was exported attached.

    The base is not touched. The runtime's own API switches between them:
    set_active_adapter in ONNX Runtime GenAI.
    """


@command.command(short_help="Put a person's adapter into a bundle.")
@bundle_argument
@click.option("--adapter", type=PATH, required=True, help="Adapter folder, in PEFT's own format.")
@click.option("--name", metavar="NAME", required=True, help="What the runtime calls it.")
@force_option
def add(bundle: Path, adapter: Path, name: str, force: bool) -> None:
    """Put a LoRA adapter into BUNDLE, in a second and without its base."""
    from exporters.adapters import add_adapter

    info = add_adapter(bundle, name, adapter, force=force)
    size = (bundle / str(info.file)).stat().st_size
    click.echo(f"Added {name} to {short_path(bundle)}: rank {info.rank}, {megabytes(size)}")


@command.command("list", short_help="What adapters a bundle has.")
@bundle_argument
@json_option
def list_(bundle: Path, as_json: bool) -> None:
    """List BUNDLE's adapters, attached and merged."""
    from exporters.bundle import read_manifest

    manifest = read_manifest(bundle)
    sizes = {file.path: file.bytes for file in manifest.files}
    if as_json:
        print_json(
            [{**asdict(adapter), "bytes": sizes.get(adapter.file or "")} for adapter in manifest.adapters]
        )
        return
    if not manifest.adapters:
        click.echo("No adapters. Put one in with `edgeplm adapters add`.")
        return
    print_table(
        [
            (
                adapter.name,
                adapter.kind,
                f"{adapter.rank}",
                f"{adapter.alpha:g}",
                megabytes(sizes[adapter.file]) if adapter.file else "-",
                " ".join(adapter.targets),
            )
            for adapter in manifest.adapters
        ],
        header=("name", "kind", "rank", "alpha", "size", "targets"),
    )


@command.command(short_help="Take a person's adapter out of a bundle.")
@bundle_argument
@click.option("--name", metavar="NAME", required=True, help="Which adapter.")
def remove(bundle: Path, name: str) -> None:
    """Take an attached adapter out of BUNDLE."""
    from exporters.adapters import remove_adapter

    remove_adapter(bundle, name)
    click.echo(f"Removed {name} from {short_path(bundle)}")
