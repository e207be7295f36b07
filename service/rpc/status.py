"""One table from errors to gRPC's status codes, and what goes with a code: message, public code, when to retry."""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import NamedTuple

from grpc import StatusCode

from service import errors
from service.errors import INTERNAL, OctavoError

_log = logging.getLogger(__name__)

STATUSES: dict[type[OctavoError], StatusCode] = {
    errors.InvalidInput: StatusCode.INVALID_ARGUMENT,
    errors.InvalidName: StatusCode.INVALID_ARGUMENT,
    errors.InvalidModel: StatusCode.INVALID_ARGUMENT,
    errors.InvalidDataset: StatusCode.INVALID_ARGUMENT,
    errors.InvalidRecipe: StatusCode.INVALID_ARGUMENT,
    errors.InvalidPreprocessing: StatusCode.INVALID_ARGUMENT,
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.InvalidTensor: StatusCode.INVALID_ARGUMENT,
    errors.InvalidImage: StatusCode.INVALID_ARGUMENT,
    errors.InputTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.NoReadyVersion: StatusCode.NOT_FOUND,
    errors.Conflict: StatusCode.FAILED_PRECONDITION,
    errors.InUse: StatusCode.FAILED_PRECONDITION,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.Unproven: StatusCode.FAILED_PRECONDITION,
    errors.Unsupported: StatusCode.UNIMPLEMENTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.QueueFull: StatusCode.UNAVAILABLE,
    errors.DeadlineUnreachable: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.NotReady: StatusCode.UNAVAILABLE,
    errors.Stopping: StatusCode.UNAVAILABLE,
    errors.DeviceFailed: StatusCode.UNAVAILABLE,
    errors.StoreUnavailable: StatusCode.UNAVAILABLE,
    errors.StorageFull: StatusCode.RESOURCE_EXHAUSTED,
    errors.EngineFailed: StatusCode.INTERNAL,
    errors.StageFailed: StatusCode.INTERNAL,
    errors.StageTimeLimit: StatusCode.INTERNAL,
    errors.StageMemoryLimit: StatusCode.INTERNAL,
    errors.StageCrashed: StatusCode.INTERNAL,
    errors.JobCancelled: StatusCode.INTERNAL,
    OctavoError: StatusCode.INTERNAL,
}
# A message travels in the trailer, which clients take up to 8 KiB of; there each byte outside of ASCII takes three.
_MAX_CHARACTERS = 2000
_MAX_BYTES = 6000


class Refusal(NamedTuple):
    """The status of a call that failed. `metadata` is its trailer."""

    status: StatusCode
    message: str
    code: str
    metadata: tuple[tuple[str, str], ...]


def status_of(error: OctavoError) -> StatusCode:
    """By the error's exact class. KeyError for a class missing from the table."""
    return STATUSES[type(error)]


def refusal_of(error: Exception, method: str) -> Refusal:
    """Failures of our own are logged; an error that is not Octavo's is logged whole, and tells callers nothing."""
    if not isinstance(error, OctavoError):
        _log.error("call crashed", extra={"method": method}, exc_info=error)
        return Refusal(StatusCode.INTERNAL, INTERNAL, "internal", (("error-code", "internal"),))
    status = status_of(error)
    if status is StatusCode.INTERNAL:
        _log.error("call failed", extra={"method": method, "error": str(error)})
    metadata = [("error-code", error.code)]
    if error.retryable:
        metadata.append(("grpc-retry-pushback-ms", str(error.retry_after_seconds * 1000)))
    return Refusal(status, _cut(str(error)), error.code, tuple(metadata))


def _cut(message: str) -> str:
    # A lone surrogate of a caller's name has no bytes in UTF-8.
    text = message[:_MAX_CHARACTERS].encode("utf-8", "backslashreplace").decode()[:_MAX_CHARACTERS].encode()
    sizes = accumulate(1 if 0x20 <= byte < 0x7F and byte != ord("%") else 3 for byte in text)
    return text[: sum(size <= _MAX_BYTES for size in sizes)].decode("utf-8", "ignore")
