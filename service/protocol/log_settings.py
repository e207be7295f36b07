"""The v2 protocol's log settings: which levels are logged. Refuses another file and another format."""

from __future__ import annotations

from typing import Any

from service.errors import InvalidInput, Unsupported
from service.logs import Levels

_FORMAT = "ISO8601"
_FLAGS = ("log_info", "log_warning", "log_error")
_MAX_VERBOSE = 2**31 - 1
PROPERTIES = {name: {"type": "boolean"} for name in _FLAGS} | {
    "log_verbose_level": {"type": "integer", "minimum": 0, "maximum": _MAX_VERBOSE},
    "log_format": {"type": "string", "enum": [_FORMAT]},
}


def changed_levels(now: Levels, changes: dict[str, Any]) -> Levels:
    """The levels after the changes, all of which are checked first. Raises InvalidInput or Unsupported."""
    for name, value in changes.items():
        if name == "log_file":
            raise Unsupported(
                "log file location can not be updated through network protocol; logs go to standard error"
            )
        if name in _FLAGS and not isinstance(value, bool):
            raise InvalidInput(f"{name!r} is {value!r:.80}; send true or false")
        if name == "log_verbose_level" and not (type(value) is int and 0 <= value <= _MAX_VERBOSE):
            raise InvalidInput(f"'log_verbose_level' is {value!r:.80}; send an integer from 0 to {_MAX_VERBOSE}")
        if name == "log_format" and value != _FORMAT:
            raise Unsupported(f"'log_format' is {value!r:.80}; logs are JSON lines, whose times are {_FORMAT!r} always")
        if name not in (*_FLAGS, "log_verbose_level", "log_format"):
            raise InvalidInput(f"log setting {name[:80]!r} is unknown; send one of {', '.join(PROPERTIES)}")
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
