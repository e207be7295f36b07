"""Pieces of HTML that the report's page is made of; every string is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_MIB = 1024 * 1024


def card(title: str, body: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{body}</section>' if body else ""


def details(title: str, body: str) -> str:
    return f'<details class="card"><summary>{escape(title)}</summary>{body}</details>'


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(header)
    head = "".join(f"<th>{escape(name)}</th>" for name in names) if any(names) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'


def number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}g}"


def decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def mebibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / _MIB:.2f}"
