"""The small parts of upload forms, read and checked: name, sha256, labels, preprocessing. Refuses what is malformed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from service.api.multipart import Upload
from service.api.schemas_requests import NAME_SCHEMA
from service.domain.model import Preprocessing, checked_name
from service.errors import InvalidPreprocessing, InvalidRequest
from service.quantization.data.preprocessing import checked_preprocessing

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LABEL_CHARACTERS = 256


def read_name(upload: Upload, kind: str) -> str:
    """The form's name part. Raises InvalidName."""
    return checked_name(upload.text("name") or "", kind)


def check_sha256(upload: Upload) -> None:
    """Raises InvalidRequest when the caller's digest is malformed or is not the digest of what arrived."""
    text = upload.text("sha256")
    if text is None:
        return
    stated = text.strip().lower()
    if _SHA256.fullmatch(stated) is None:
        raise InvalidRequest(f"sha256 is {text[:80]!r}; send the file's SHA-256 as 64 hexadecimal digits")
    if stated != upload.sha256:
        raise InvalidRequest(
            f"the file arrived with SHA-256 {upload.sha256}, and {stated} was stated; "
            "it changed on its way: send it again, or correct sha256"
        )


def read_preprocessing(upload: Upload) -> Preprocessing | None:
    """The form's preprocessing; None where it was not sent. Raises InvalidPreprocessing."""
    text = upload.text("preprocessing")
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidPreprocessing(f"preprocessing is not JSON: {error}; send a JSON object") from error
    return checked_preprocessing(value)


def read_labels(upload: Upload, max_labels: int) -> tuple[str, ...] | None:
    """The labels, one a line; None where none were sent. Raises InvalidRequest naming the line."""
    text = upload.text("labels")
    if text is None:
        return None
    # Not splitlines: a label may hold the rarer Unicode line ends.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if len(lines) > max_labels:
        raise InvalidRequest(f"labels has {len(lines)} lines; send at most {max_labels}")
    for number, line in enumerate(lines, start=1):
        if not 0 < len(line) <= _LABEL_CHARACTERS:
            raise InvalidRequest(
                f"line {number} of labels has {len(line)} characters; "
                f"send one label a line, of 1 to {_LABEL_CHARACTERS} characters"
            )
    return tuple(lines)


def form_schema(parts: Mapping[str, str]) -> dict[str, Any]:
    """The OpenAPI request body of an upload form: name, file, and these optional parts with their descriptions."""
    properties: dict[str, Any] = {"name": NAME_SCHEMA, "file": {"type": "string", "format": "binary", "minLength": 1}}
    properties |= {part: {"type": "string", "description": description} for part, description in parts.items()}
    schema = {"type": "object", "required": ["name", "file"], "additionalProperties": False, "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
