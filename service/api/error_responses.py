"""One table from errors to HTTP statuses, and one body for every error on every path: `{"error", "code"}`."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.api.known_fields import advice_on_unknown
from service.errors import INTERNAL, OctavoError

_log = logging.getLogger(__name__)

STATUSES: dict[type[OctavoError], int] = {
    errors.InvalidInput: 400,
    errors.InvalidName: 422,
    errors.InvalidModel: 422,
    errors.InvalidDataset: 422,
    errors.InvalidRecipe: 422,
    errors.InvalidPreprocessing: 422,
    errors.InvalidRequest: 422,
    errors.InvalidTensor: 400,
    errors.InvalidImage: 400,
    errors.InputTooLarge: 413,
    errors.NotFound: 404,
    errors.NoReadyVersion: 404,
    errors.Conflict: 409,
    errors.InUse: 409,
    errors.AlreadyExists: 409,
    errors.Unproven: 409,
    errors.Unsupported: 501,
    errors.Unavailable: 503,
    errors.QueueFull: 429,
    errors.DeadlineUnreachable: 429,
    errors.DeadlineExceeded: 503,
    errors.NotReady: 503,
    errors.Stopping: 503,
    errors.StoreUnavailable: 503,
    errors.StorageFull: 507,
    errors.EngineFailed: 500,
    errors.DeviceFailed: 503,
    errors.StageFailed: 500,
    errors.StageTimeLimit: 500,
    errors.StageMemoryLimit: 500,
    errors.StageCrashed: 500,
    errors.JobCancelled: 500,
    OctavoError: 500,
}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_MAX_SHOWN = 200


def status_of(error: OctavoError) -> int:
    """The HTTP status of an error, by its exact class. KeyError for a class missing from the table."""
    return STATUSES[type(error)]


def error_body(message: str, code: str) -> bytes:
    """The body of every error answer, JSON."""
    try:
        return orjson.dumps({"error": message, "code": code})
    except orjson.JSONEncodeError:
        # A name with a lone surrogate from a caller's JSON ends up in messages; UTF-8 has no bytes for it.
        return json.dumps({"error": message, "code": code}).encode()


def error_headers(error: OctavoError) -> dict[str, str]:
    """Retry-After where trying again can help."""
    return {"Retry-After": str(error.retry_after_seconds)} if error.retryable else {}


def error_response(error: OctavoError) -> Response:
    return _response(status_of(error), str(error), error.code, error_headers(error))


def _response(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
    return Response(error_body(message, code), status, headers, media_type="application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of the app answer in the one form. Failures of our own are logged, and tell callers nothing."""
    app.add_exception_handler(OctavoError, _answer_octavo_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_middleware(CrashBarrier)


async def _answer_octavo_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OctavoError)
    if status_of(error) == 500:
        _log.error("request failed", extra={"path": request.url.path, "code": error.code}, exc_info=error)
    return error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:_MAX_SHOWN]
    headers = dict(error.headers or {})
    if error.status_code == 404:
        message = f"Not Found: there is no path {path!r}; see /docs for those that there are"
    elif error.status_code == 405:
        headers["Allow"] = _allowed_methods(request) or headers.get("Allow", "")
        message = f"Method Not Allowed: {request.method} on {path!r}; send {headers['Allow'] or 'another method'}"
    else:
        message = str(error.detail)
    code = _HTTP_CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal")
    return _response(error.status_code, message, code, headers)


def _allowed_methods(request: Request) -> str:
    """The documented methods of the path; the router alone would tell those of the first route that matches it."""
    template = getattr(request.scope.get("route"), "path", None)
    return ", ".join(sorted(method.upper() for method in request.app.openapi()["paths"].get(template, ())))


async def _answer_invalid_request(request: Request, error: Exception) -> Response:
    """Names the first field that is wrong, its value, and what is wanted."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = _cut(".".join(str(part) for part in first["loc"] if part != "body")) or "the body"
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    if first["loc"][0] == "body" and isinstance(error.body, bytes):
        # The framework parses JSON alone, and goes by the header: what was sent may well be JSON.
        message = (
            f"the body was sent {_content_type(request)}; send JSON with the header content-type: application/json"
        )
    elif first["type"] == "json_invalid":
        message = f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}; send a JSON object"
    elif first["type"] == "missing":
        message = f"{where} is missing; send it{more}"
    elif first["type"] == "extra_forbidden":
        message = f"{where} is not a known field; {advice_on_unknown(_body_type(request), first['loc'][1:])}{more}"
    else:
        message = f"{where} is {_shown(first.get('input'))}: {first['msg']}; send an allowed value{more}"
    return _response(422, message, "invalid_request")


def _content_type(request: Request) -> str:
    sent = request.headers.get("content-type")
    return "without a content-type header" if not sent else f"with the header content-type: {_cut(sent)}"


def _body_type(request: Request) -> Any:
    """The type of the body that the request's route takes; None where it takes none."""
    field = getattr(request.scope.get("route"), "body_field", None)
    return None if field is None else field.field_info.annotation


def _shown(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def cut_off() -> errors.Stopping:
    """What a request is told that a stopping server cancels."""
    return errors.Stopping("the server stops before the request could be finished; send it again")


class CrashBarrier:
    """Turns an exception that no handler knows into a plain 500 and a logged traceback.

    Turns a cancellation into a 503: the server cancels what a stop cannot wait for any longer, and nothing else does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except asyncio.CancelledError:
            if started:
                raise
            await error_response(cut_off())(scope, receive, send)
        except Exception as error:
            if started:
                # Half an answer is out; breaking the connection is all that can tell the caller.
                raise
            _log.error("request crashed", extra={"path": scope["path"], "method": scope["method"]}, exc_info=error)
            await _response(500, INTERNAL, "internal")(scope, receive, send)
