"""Figures and small tables as a person reads them. A missing figure is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

MISSING = "-"


def number_text(value: Any, digits: int = 4, unit: str = "") -> str:
    """A number with so many significant digits, and its unit."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return MISSING
    return f"{value:.{digits}g}{unit}"


def percent_text(fraction: Any) -> str:
    """0.0125 as 1.25 %."""
    return f"{fraction * 100:.2f} %" if isinstance(fraction, int | float) else MISSING


def milliseconds_text(seconds: Any) -> str:
    """0.0012345 as 1.234 ms."""
    return number_text(seconds * 1000, unit=" ms") if isinstance(seconds, int | float) else MISSING


def byte_text(count: Any) -> str:
    """154355 as 150.7 KiB."""
    if not isinstance(count, int | float):
        return MISSING
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Two columns, name and value; facts without a value are left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, "", MISSING):
            table.add_row(name, _cell(value))
    return table


def rows_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """A headed table; None becomes a dash."""
    from rich.table import Table

    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
