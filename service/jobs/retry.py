"""Which failures of a stage are worth another try, and how often."""

from __future__ import annotations

from service.errors import OctavoError

MAX_TRIES = 4
FIRST_WAIT_SECONDS = 1.0
WAIT_GROWTH = 3.0


def is_worth_retrying(error: BaseException) -> bool:
    """A full or silent store or database may recover; a model that cannot be quantized will not."""
    return isinstance(error, OctavoError) and error.retryable
