"""The one way in which a benchmark refuses to go on."""

from __future__ import annotations


class CannotMeasure(Exception):
    """Something that the figures rest on is missing or wrong. The message says what, and the next step."""
