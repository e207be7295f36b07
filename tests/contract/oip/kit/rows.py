"""The protocol's rows, each a check that any server can be held to, and how they are run one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import httpx

from tests.contract.oip.kit.target import NotOffered, Target


class Row(NamedTuple):
    """One promise of the protocol; `section` is its place in it, such as "b4"."""

    section: str
    title: str
    check: Callable[[Target], None]

    @property
    def name(self) -> str:
        return f"{self.section} {self.title}"


class Verdict(NamedTuple):
    """`word` is PASS, FAIL or SKIP; `reason` says why it is not PASS."""

    row: Row
    word: str
    reason: str = ""


ROWS: list[Row] = []


def row(section: str, title: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Enters a check into ROWS. It raises AssertionError for a broken promise, NotOffered for one that is not made."""

    def enter(check: Callable[[Target], None]) -> Callable[[Target], None]:
        ROWS.append(Row(section, title, check))
        return check

    return enter


def judged(rows: Iterable[Row], target: Target) -> Iterable[Verdict]:
    """One verdict a row. A server that breaks one of them, or its connection, is still asked for the others."""
    for one in rows:
        try:
            one.check(target)
        except NotOffered as reason:
            yield Verdict(one, "SKIP", str(reason))
        except (AssertionError, KeyError, IndexError, TypeError, ValueError, httpx.HTTPError) as error:
            text = str(error).splitlines()
            yield Verdict(one, "FAIL", f"{type(error).__name__}: {text[0] if text else ''}"[:400])
        else:
            yield Verdict(one, "PASS")
