"""The report: one self-contained HTML file that needs neither scripts nor the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures, plots
from benchmarks import report_augmented as augmented
from benchmarks import report_device as device
from benchmarks import report_measured as measured
from benchmarks import report_views as views
from benchmarks.report_data import (
    Arm,
    Augmentation,
    Check,
    Curve,
    ExportedFile,
    Query,
    Refused,
    Report,
    SelectionPart,
    SelectionStep,
    TaskFacts,
    TeacherPart,
    Verification,
    WritingRound,
)
from benchmarks.verdicts import verdicts
from toolkit import __version__
from toolkit.files import write_atomic

__all__ = [
    "Arm",
    "Augmentation",
    "Check",
    "Curve",
    "ExportedFile",
    "Query",
    "Refused",
    "Report",
    "SelectionPart",
    "SelectionStep",
    "TaskFacts",
    "TeacherPart",
    "Verification",
    "WritingRound",
    "render_report",
    "write_report",
]

_TEMPLATES = Path(__file__).with_name("templates")


def write_report(path: Path, report: Report) -> None:
    """Write `report` as one HTML file, atomically; an older file of that name is replaced."""
    write_atomic(path, render_report(report))


def render_report(report: Report) -> str:
    """The report's page. All text of the data is escaped: a person's examples are data, never markup."""
    return render_page("report.html", _context(report))


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """A page from a template of this package, with everything in `context` escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template(template).render(context)
    return page.rstrip() + "\n"


def _context(report: Report) -> dict[str, Any]:
    parts = ("arms", "survival", "speed", "files", "augmentation", "curves")
    context: dict[str, Any] = {
        **dict.fromkeys(parts),
        "report": report,
        "version": __version__,
        "figures": figures,
        "line_key": plots.line_key,
        "verdicts": verdicts(report),
        "examples": views.examples(report),
        "environment": views.environment_facts(report),
    }
    if any(report.task.metric in arm.metrics for arm in report.arms):
        context["arms"] = {"plot": views.arms_plot(report), "table": views.arms_table(report)}
    if (checked := report.verification) is not None:
        context["survival"] = {
            "facts": measured.survival_facts(checked),
            "table": measured.checks_table(checked),
            "strip": measured.survival_plot(checked),
            "scatter": measured.scatter_plot(checked),
        }
    if report.benchmarks:
        context["speed"] = [
            {
                "result": result,
                "name": result.environment.device,
                "facts": views.device_facts(result) if number else (),  # the first one's are at the end
                "table": measured.speed_table(result, number),
                "courses": device.courses(result, number),
                "run": device.run_facts(result),
            }
            for number, result in enumerate(report.benchmarks)
        ]
    if report.files:
        against = views.size_plot(report.files, report.float_bytes) if report.float_bytes else None
        context["files"] = {"table": views.files_table(report.files), "plot": against}
    if report.augmentation is not None:
        context["augmentation"] = augmented.parts(report.augmentation)
    if any(curve.losses for curve in report.curves):
        context["curves"] = {
            "plot": views.curves_plot(report.curves),
            "table": views.curves_table(report.curves),
        }
    return context
