"""What TensorRT says. It tells why it fails to its logger alone, and a process can have but one: the first that it is
given stays TensorRT's own, unowned, whatever others come later. So ours lives as long as the process, and passes on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock, get_ident
from typing import Any

# Takes a severity, such as "WARNING", and a message.
Listener = Callable[[str, str], None]
_log = logging.getLogger(__name__)
_GRAVE = ("INTERNAL_ERROR", "ERROR")
_KEPT = 3
_MAX_WORDS = 500
_changing = Lock()
# The listeners and their threads: replaced as a whole, for TensorRT may speak up at any moment, in a destructor too.
_listeners: tuple[tuple[int, Listener], ...] = ()


@cache
def process_logger(trt: Any) -> Any:
    """The process's one logger of the module `trt`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            _pass_on(severity.name, message)

    return Logger()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Gives `listener` what TensorRT says of the calling thread's work, from threads of its own as well."""
    global _listeners
    entry = (get_ident(), listener)
    with _changing:
        _listeners = (*_listeners, entry)
    try:
        yield
    finally:
        with _changing:
            _listeners = tuple(other for other in _listeners if other is not entry)


def _pass_on(severity: str, message: str) -> None:
    heard = _listeners
    here = get_ident()
    # A thread that TensorRT started works for any of those that wait.
    for listener in [one for thread, one in heard if thread == here] or [one for _, one in heard] or [_write]:
        listener(severity, message)


def _write(severity: str, message: str) -> None:
    if severity in _GRAVE:
        _log.error("TensorRT", extra={"reason": message})
    elif severity == "WARNING":
        _log.warning("TensorRT", extra={"reason": message})


class RuntimeLog:
    """Listens to a piece of work: writes as nobody's words are written, and keeps the last errors for our own."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)

    def take(self, severity: str, message: str) -> None:
        if severity in _GRAVE:
            self._errors.append(message)
        _write(severity, message)

    def words(self) -> str:
        """The last errors on one line, or that there was none."""
        return " ".join(self._errors)[:_MAX_WORDS] or "it gave no reason"
