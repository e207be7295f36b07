"""JSON logging on stderr, with the request, job and engine at hand in every line."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

_context: ContextVar[dict[str, str]] = ContextVar("octavo_log_context", default={})  # noqa: B039 (never mutated)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Adds fields, such as `job="..."`, to each line logged within."""
    token = _context.set(_context.get() | fields)
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, context, and the record's `extra` fields."""

    def __init__(self, **fields: object) -> None:
        """`fields` are in every line."""
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= self._fields | _context.get()
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class Levels(NamedTuple):
    """Which lines are logged, each level by itself; `verbose` above 0 adds those below INFO."""

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0

    def allow(self, level: int) -> bool:
        if level >= logging.ERROR:
            return self.error
        if level >= logging.WARNING:
            return self.warning
        return self.info if level >= logging.INFO else self.verbose > 0


class LevelFilter(logging.Filter):
    """Lets pass the levels that are asked for `now`; they may be changed while the process runs."""

    def __init__(self) -> None:
        super().__init__()
        self._now = Levels()

    @property
    def now(self) -> Levels:
        return self._now

    @now.setter
    def now(self, levels: Levels) -> None:
        self._now = levels
        steps = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        # Loggers ask the root before they make a line, so its level saves making those that nobody wants.
        logging.getLogger().setLevel(next((step for step in steps if levels.allow(step)), logging.CRITICAL + 1))

    def filter(self, record: logging.LogRecord) -> bool:
        return self._now.allow(record.levelno)


LEVELS = LevelFilter()


def set_up_logging(level: str, **fields: object) -> None:
    """Sends every logger of the process to stderr as JSON lines, from `level` on, each with these fields.

    What kills the process outright, native code or the supervisor of one that hangs, leaves its stacks there too.
    """
    # Not the stream that a test may have put in stderr's place: it must have a descriptor.
    faulthandler.enable(sys.__stderr__ or sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(**fields))
    handler.addFilter(LEVELS)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    least = logging.getLevelNamesMapping()[level]
    LEVELS.now = Levels(least <= logging.INFO, least <= logging.WARNING, True, int(least <= logging.DEBUG))
    # A logger without a handler gets one of DBOS's own from it, which writes plain text.
    durable = logging.getLogger("dbos")
    durable.handlers[:], durable.propagate = [logging.NullHandler()], True
    for chatty in ("alembic", "dbos", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
