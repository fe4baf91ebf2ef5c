"""`edgeplm chat`: talk to a bundle."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from toolkit.commands.common import adapter_option, bundle_argument


@click.command(short_help="Talk to a bundle.")
@bundle_argument
@click.option("--prompt", metavar="TEXT", help="Answer this one message and end.")
@click.option("--plain", is_flag=True, help="Send messages as they are, without the task's instruction.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), metavar="N", default=200, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads  [default: the runtime's choice]."
)
@adapter_option
def command(
    bundle: Path,
    prompt: str | None,
    plain: bool,
    max_new_tokens: int,
    threads: int | None,
    adapter: str | None,
) -> None:
    """Answer messages with BUNDLE, here and offline.

    A message is put into the bundle's task (say, a review to be rated) unless
    --plain. Each message stands alone. An empty line or Ctrl-D ends.
    """
    from exporters.bundle import open_bundle
    from runtimes import open_engine
    from toolkit.bundling import bundle_chat
    from toolkit.tasks import Task

    manifest = open_bundle(bundle, hashes=False)
    task = Task.from_dict(manifest.task) if manifest.task and not plain else None
    engine = open_engine(bundle, threads)
    engine.use_adapter(adapter)
    chat = bundle_chat(bundle)

    def answer(message: str) -> None:
        ids = chat.prompt(task.render(message) if task else message)
        if len(ids) >= engine.context_length:
            click.echo(f"Too long: {len(ids)} tokens, the context holds {engine.context_length}.", err=True)
            return
        for piece in _pieces(chat, engine.generate(ids, max_new_tokens, chat.stop)):
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()

    if prompt is not None:
        answer(prompt)
        return
    interactive = sys.stdin.isatty()
    if interactive:
        what = f"task {task.name}" if task else "plain messages"
        click.echo(f"{adapter or manifest.name}: {what}. An empty line ends.")
    while True:
        if interactive:
            click.echo("> ", nl=False)
        line = sys.stdin.readline()
        if not line or (interactive and not line.strip()):
            return
        if line.strip():
            answer(line.rstrip("\n"))


def _pieces(chat: Any, tokens: Iterator[int]) -> Iterator[str]:
    """Text as it grows; a character that spans several tokens is held back until it is whole."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = chat.tokenizer.decode(ids, skip_special_tokens=True)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            continue
        yield text[len(shown) :]
        shown = text
