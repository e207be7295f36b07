"""Job reports as a table: the FP32 reference first, each engine beside it. A figure that a report lacks is a dash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from service.cli.client import Document
from service.cli.figures import MISSING, byte_text, milliseconds_text, number_text, rows_table

if TYPE_CHECKING:
    from rich.console import RenderableType

_Row = tuple[str, ...]
# mae and cosine are metrics too; they stand among the outputs' errors.
_METRICS = {
    "top1": "accuracy (top1)",
    "top5": "accuracy (top5)",
    "agreement": "agreement",
    "top5_agreement": "agreement (top5)",
}
_ERRORS = (
    ("E[e]", "mean_error", ""),
    ("E|e|", "mean_absolute_error", ""),
    ("SQNR", "sqnr_db", " dB"),
    ("cosine", "cosine", ""),
)
_SIZES = (("size on disk", "disk_bytes"), ("size resident", "resident_bytes"))


def report_view(report: Document) -> RenderableType:
    """The table of one report."""
    return comparison_view([report])


def comparison_view(reports: list[Document]) -> RenderableType:
    """One table of one or more reports on the same model version and validation set, then verdicts and warnings.

    Latency ratios hold each engine against the reference measured in turn with it; the reference's own column shows
    the first report's.
    """
    from rich.console import Group

    columns = ("", _text(reports[0], "reference", "variant"), *(_text(report, "variant") for report in reports))
    rows = (*_metric_rows(reports), *_error_rows(reports), *_latency_rows(reports), *_size_rows(reports))
    return Group(rows_table(columns, rows), *_remarks(reports))


def _metric_rows(reports: list[Document]) -> Iterator[_Row]:
    told = _at(reports[0], "metrics") or {}
    for metric, title in ((metric, title) for metric, title in _METRICS.items() if metric in told):
        engines = (number_text(_at(report, "metrics", metric, "engine")) for report in reports)
        yield title, number_text(_at(reports[0], "metrics", metric, "reference")), *engines
        yield f"{title} loss", "", *(_loss_text(_at(report, "metrics", metric)) for report in reports)


def _loss_text(figures: Any) -> str:
    """The loss with its confidence interval."""
    low, high = _at(figures, "interval") or (None, None)
    interval = f" [{number_text(low)}, {number_text(high)}]" if low is not None and high is not None else ""
    return number_text(_at(figures, "loss")) + interval


def _error_rows(reports: list[Document]) -> Iterator[_Row]:
    for index, output in enumerate(_at(reports[0], "outputs") or ()):
        for name, key, unit in _ERRORS:
            figures = (number_text(_at(report, "outputs", index, key), unit=unit) for report in reports)
            yield f"{output.get('name')} {name}", "", *figures


def _latency_rows(reports: list[Document]) -> Iterator[_Row]:
    for index, taken in enumerate(_at(reports[0], "reference", "latency") or ()):
        for name in ("p50", "p99"):
            path = ("latency", index, f"{name}_seconds")
            yield _compared(reports, f"batch {_text(taken, 'batch')} {name}", path, milliseconds_text)


def _size_rows(reports: list[Document]) -> Iterator[_Row]:
    for name, key in _SIZES:
        yield _compared(reports, name, (key,), byte_text)


def _compared(reports: list[Document], name: str, path: tuple[str | int, ...], shown: Callable[[Any], str]) -> _Row:
    """A row whose engine cells tell how many times smaller than the reference's figure theirs is."""

    def cell(report: Document, side: str) -> str:
        value, reference = _at(report, side, *path), _at(report, "reference", *path)
        ratio = f" ({reference / value:.2f}x)" if side == "engine" and value and reference else ""
        return shown(value) + ratio

    return name, cell(reports[0], "reference"), *(cell(report, "engine") for report in reports)


def _remarks(reports: list[Document]) -> Iterator[str]:
    for report in reports:
        variant = _text(report, "variant")
        yield f"{variant}: {_text(report, 'verdict')}: {_text(report, 'certificate', 'reason')}"
        yield from (f"{variant}: warning: {warning}" for warning in _at(report, "warnings") or ())
    yield "Ratios: times smaller than the reference's figure of the same run."


def _text(document: Document, *path: str | int) -> str:
    value = _at(document, *path)
    return MISSING if value is None else str(value)


def _at(document: Any, *path: str | int) -> Any:
    """What lies at the path, None where any step is missing: an older or newer server may report less."""
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document
