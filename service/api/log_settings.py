"""The v2 protocol's log settings: which levels this process logs. Refuses another file and another format."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.schemas import errors
from service.api.settings_body import read_settings_body, settings_schema, shown
from service.errors import InvalidInput, Unsupported
from service.logs import LEVELS, Levels

_FORMAT = "ISO8601"
_FLAGS = ("log_info", "log_warning", "log_error")
_MAX_VERBOSE = 2**31 - 1
_PROPERTIES = {name: {"type": "boolean"} for name in _FLAGS} | {
    "log_verbose_level": {"type": "integer", "minimum": 0, "maximum": _MAX_VERBOSE},
    "log_format": {"type": "string", "enum": [_FORMAT]},
}


def log_settings_router() -> APIRouter:
    routes = APIRouter(prefix="/v2", tags=["operations"])

    @routes.get("/logging", summary="Which levels this process logs")
    async def read_logging() -> dict[str, Any]:
        return log_settings(LEVELS.now)

    @routes.post(
        "/logging",
        summary="Change which levels this process logs, until it ends",
        responses=errors(400, 413, 501),
        openapi_extra=settings_schema(_PROPERTIES),
    )
    async def change_logging(request: Request) -> dict[str, Any]:
        """What is left out stays as it is; `log_verbose_level` above 0 logs DEBUG too."""
        LEVELS.now = changed_levels(LEVELS.now, await read_settings_body(request))
        return log_settings(LEVELS.now)

    return routes


def changed_levels(now: Levels, changes: dict[str, Any]) -> Levels:
    """The levels after the changes, all of which are checked first. Raises InvalidInput or Unsupported."""
    for name, value in changes.items():
        if name == "log_file":
            raise Unsupported(
                "log file location can not be updated through network protocol; logs go to standard error"
            )
        if name in _FLAGS and not isinstance(value, bool):
            raise InvalidInput(f"{name!r} is {shown(value)}; send true or false")
        if name == "log_verbose_level" and not (type(value) is int and 0 <= value <= _MAX_VERBOSE):
            raise InvalidInput(f"'log_verbose_level' is {shown(value)}; send an integer from 0 to {_MAX_VERBOSE}")
        if name == "log_format" and value != _FORMAT:
            raise Unsupported(
                f"'log_format' is {shown(value)}; logs are JSON lines, whose times are {_FORMAT!r} always"
            )
        if name not in (*_FLAGS, "log_verbose_level", "log_format"):
            raise InvalidInput(f"log setting {name[:80]!r} is unknown; send one of {', '.join(_PROPERTIES)}")
    return now._replace(
        info=changes.get("log_info", now.info),
        warning=changes.get("log_warning", now.warning),
        error=changes.get("log_error", now.error),
        verbose=changes.get("log_verbose_level", now.verbose),
    )


def log_settings(now: Levels) -> dict[str, Any]:
    return {
        "log_file": "",
        "log_info": now.info,
        "log_warning": now.warning,
        "log_error": now.error,
        "log_verbose_level": now.verbose,
        "log_format": _FORMAT,
    }
