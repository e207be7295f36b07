"""TensorRT says why it fails to its logger alone, so the last errors are kept and put into our own."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

_log = logging.getLogger(__name__)
_KEPT = 3
_MAX_WORDS = 500


class RuntimeLog:
    """Errors and warnings go to the server's log; `logger` is handed to TensorRT, which keeps it alive."""

    def __init__(self, trt: Any) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self.logger = _logger(trt, self._errors)

    def words(self) -> str:
        """The last errors on one line, or that there was none."""
        return " ".join(self._errors)[:_MAX_WORDS] or "it gave no reason"


def _logger(trt: Any, errors: deque[str]) -> Any:
    grave = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in grave:
                errors.append(message)
                _log.error("TensorRT", extra={"reason": message})
            elif severity == trt.ILogger.Severity.WARNING:
                _log.warning("TensorRT", extra={"reason": message})

    return Logger()
