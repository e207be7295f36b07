"""Bodies of requests that change settings of the v2 protocol: one flat JSON object. Refuses anything else."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request

from service.api.request_body import body_chunks
from service.errors import InputTooLarge, InvalidInput

_MAX_BODY_BYTES = 16 * 1024


async def read_settings_body(request: Request) -> dict[str, Any]:
    """The settings to change, by name. Clients of the protocol do not say that the body is JSON."""
    body = b""
    async for chunk in body_chunks(request):
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InputTooLarge(f"the body has over {_MAX_BODY_BYTES} bytes; send only the settings to change")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}; send an object with the settings to change") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"the body is {value!r:.80}; send an object with the settings to change")
    return value


def settings_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """What the document says of such a body."""
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
