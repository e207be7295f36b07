"""A failure that costs its own figure alone: a note of the report, beside all that was measured before and after it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.errors import CannotMeasure
from benchmarks.report import Report
from service.errors import OctavoError

_SHOWN_CHARACTERS = 1000


@contextmanager
def noted(report: Report, what: str) -> Iterator[None]:
    """Ends with the note `what: reason` where something fails inside; what nobody expected also shows its traceback.

    The runtimes' own errors have no class in common, so any error counts; an interruption goes through.
    """
    try:
        yield
    except (CannotMeasure, OctavoError) as error:
        _add(report, what, str(error))
    except Exception as error:  # noqa: BLE001 - see above
        traceback.print_exc()
        _add(report, what, f"{type(error).__name__}: {error}")


def _add(report: Report, what: str, reason: str) -> None:
    report.notes.append(f"{what}: {' '.join(reason.split())[:_SHOWN_CHARACTERS]}")
