"""Numbers as people read them: units, significant digits, a true minus sign."""

import math

THIN = "\u202f"
_METRICS = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "rouge_1": "ROUGE-1",
    "rouge_l": "ROUGE-L",
    "exact_match": "Exact match",
}


def metric_name(name: str) -> str:
    """The usual written form of a metric."""
    return _METRICS.get(name, name)


def per_query_name(name: str) -> str:
    """What the metric is called for a single query."""
    return "error" if name in ("mae", "rmse") else metric_name(name)


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A fixed number of decimals; a dash for None or a value that is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits, never in exponent form for everyday sizes."""
    if value == 0 or not math.isfinite(value):
        return number(value, 0)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return number(value, min(decimals, 6))


def count(value: float) -> str:
    """A whole number with thin spaces between the thousands."""
    return f"{round(value):,}".replace(",", THIN).replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{number(100 * value, digits)}{THIN}%"


def size(value: float) -> str:
    """Bytes in decimal units: kB, MB, GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{significant(value / scale)}{THIN}{unit}"
    return f"{count(value)}{THIN}bytes"


def quantity(value: float, unit: str) -> str:
    """A measured value of a `Statistic`: seconds below one become milliseconds, bytes become MB."""
    if unit == "bytes":
        return size(value)
    if unit == "s":
        return f"{significant(value * 1e3)}{THIN}ms" if value < 1 else f"{significant(value)}{THIN}s"
    if unit == "instructions":
        return f"{value:,.0f}{THIN}{unit}"
    return f"{significant(value)}{THIN}{unit}"
