"""Trace and log settings between HTTP's JSON and the messages of gRPC, where each kind of value has its field."""

from __future__ import annotations

from typing import Any

from service.errors import InvalidInput
from service.rpc.generated.inference_pb2 import (
    LogSettingsRequest,
    LogSettingsResponse,
    TraceSettingRequest,
    TraceSettingResponse,
)


def trace_changes(request: TraceSettingRequest) -> dict[str, Any]:
    """A setting without a value goes back to what holds otherwise."""
    changes: dict[str, Any] = {}
    for name, setting in request.settings.items():
        values = list(setting.value)
        changes[name] = values if name == "trace_level" and values else values[0] if len(values) == 1 else None
        if len(values) > 1 and name != "trace_level":
            raise InvalidInput(f"trace setting {name[:80]!r} has {len(values)} values; send one")
    return changes


def trace_response(settings: dict[str, Any]) -> TraceSettingResponse:
    response = TraceSettingResponse()
    for name, value in settings.items():
        response.settings[name].value.extend(value if isinstance(value, list) else [value])
    return response


def log_changes(request: LogSettingsRequest) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name, setting in request.settings.items():
        choice = setting.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInput(f"log setting {name[:80]!r} has no value; set one, or leave it out")
        changes[name] = getattr(setting, choice)
    return changes


def log_response(settings: dict[str, Any]) -> LogSettingsResponse:
    response = LogSettingsResponse()
    for name, value in settings.items():
        if isinstance(value, bool):
            response.settings[name].bool_param = value
        elif isinstance(value, int):
            response.settings[name].uint32_param = value
        else:
            response.settings[name].string_param = value
    return response
