"""A settings class in words: its YAML file with a comment a field, and its fields as Markdown tables."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from toolkit.schema import Settings, specs
from toolkit.schema_fields import Spec

_WIDTH = 100


def commented_yaml(settings: Settings, heading: str) -> str:
    """A YAML file that reads back as `settings`; what each field means and accepts stands above it."""
    lines = [*_comment(heading, ""), *_commented_fields(settings, "")]
    return "\n".join(lines) + "\n"


def markdown_tables(cls: type[Settings], title: str) -> str:
    """The fields of `cls` as a Markdown table under `title`, and each of its sections after it."""
    own = [spec for spec in specs(cls) if not spec.is_section]
    rows = [
        "| Field | Type | Default | Accepted | Meaning |",
        "|---|---|---|---|---|",
        *(_row(spec) for spec in own),
    ]
    parts = [f"## {title}", "\n".join(rows)]
    for spec in own:
        if spec.item is not None:
            heading, _, table = markdown_tables(spec.item, f"`{spec.name}`: each").partition("\n\n")
            parts += [f"#{heading}", (spec.item.__doc__ or "").strip(), table.rstrip()]
    for spec in specs(cls):
        if spec.is_section:
            inside = title.strip("`")
            name = f"{inside}.{spec.name}" if title != inside else spec.name
            heading, _, table = markdown_tables(spec.kind, f"`{name}`").partition("\n\n")
            parts += [heading, spec.rule.help, table.rstrip()]
    return "\n\n".join(parts) + "\n"


def yaml_value(value: Any) -> str:
    """One value as it is written after `name: `, on one line."""
    plain = (
        [each.as_dict() if isinstance(each, Settings) else each for each in value]
        if isinstance(value, tuple)
        else value
    )
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _commented_fields(settings: Settings, indent: str) -> Iterator[str]:
    for spec in specs(type(settings)):
        value = getattr(settings, spec.name)
        if spec.is_section:
            yield ""
            yield from _comment(spec.rule.help, indent)
            yield f"{indent}{spec.name}:"
            yield from _commented_fields(value, indent + "  ")
            continue
        if indent == "":
            yield ""
        default = "Required" if spec.is_required else f"Default: {yaml_value(spec.default)}"
        yield from _comment(spec.rule.help, indent)
        yield from _comment(f"{default}. Accepted: {spec.accepted}.", indent)
        yield f"{indent}{spec.name}: {yaml_value(value)}"


def _comment(text: str, indent: str) -> list[str]:
    wrapped = textwrap.wrap(text, _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]


def _row(spec: Spec) -> str:
    default = "required" if spec.is_required else f"`{yaml_value(spec.default)}`"
    cells = [f"`{spec.name}`", spec.type_name, default, spec.limits or "any", spec.rule.help]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
