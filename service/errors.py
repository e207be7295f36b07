"""The whole exception tree. Each error has a public code and says whether trying again can help; none knows HTTP.

OctavoError
├── InvalidInput            the caller sent something wrong
│   ├── InvalidName  InvalidModel  InvalidDataset  InvalidRecipe  InvalidTensor
│   ├── InvalidImage  InvalidPreprocessing  InvalidRequest
│   └── InputTooLarge
├── NotFound                no such model, version, dataset, job, variant
│   └── NoReadyVersion
├── Conflict                right request, wrong state
│   ├── InUse  AlreadyExists  Unproven
├── Unsupported             known to the protocol, not offered here
├── Unavailable             try again later
│   ├── QueueFull  DeadlineUnreachable  DeadlineExceeded  NotReady  Stopping
│   └── StoreUnavailable  StorageFull
├── EngineFailed            a loaded engine could not answer
│   └── DeviceFailed        nor will it: its device is lost to this process
└── StageFailed             a job's stage could not finish
    ├── StageTimeLimit  StageMemoryLimit  StageCrashed
    └── JobCancelled
"""

from __future__ import annotations

from typing import ClassVar

# What callers are told of an error that is none of these.
INTERNAL = "the server failed to answer; its log says why, send the time of the request with a report"


class OctavoError(Exception):
    """Root of every error that Octavo raises on purpose; `str()` is the message for the caller."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    # When trying again may help; who raises it may know better.
    retry_after_seconds: int = 1


class InvalidInput(OctavoError):
    code = "invalid_input"


class InvalidName(InvalidInput):
    code = "invalid_name"


class InvalidModel(InvalidInput):
    code = "invalid_model"


class InvalidDataset(InvalidInput):
    code = "invalid_dataset"


class InvalidRecipe(InvalidInput):
    code = "invalid_recipe"


class InvalidTensor(InvalidInput):
    code = "invalid_tensor"


class InvalidImage(InvalidInput):
    code = "invalid_image"


class InvalidPreprocessing(InvalidInput):
    code = "invalid_preprocessing"


class InvalidRequest(InvalidInput):
    code = "invalid_request"


class InputTooLarge(InvalidInput):
    code = "too_large"


class NotFound(OctavoError):
    code = "not_found"


class NoReadyVersion(NotFound):
    code = "no_ready_version"


class Conflict(OctavoError):
    code = "conflict"


class InUse(Conflict):
    code = "in_use"


class AlreadyExists(Conflict):
    code = "already_exists"


class Unproven(Conflict):
    code = "unproven"


class Unsupported(OctavoError):
    code = "unsupported"


class Unavailable(OctavoError):
    code = "unavailable"
    retryable = True


class QueueFull(Unavailable):
    code = "queue_full"


class DeadlineUnreachable(Unavailable):
    code = "deadline_unreachable"


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"


class NotReady(Unavailable):
    code = "not_ready"


class Stopping(Unavailable):
    code = "stopping"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class StorageFull(Unavailable):
    code = "storage_full"


class EngineFailed(OctavoError):
    code = "engine_failed"


class DeviceFailed(EngineFailed):
    code = "device_failed"
    retryable = True


class StageFailed(OctavoError):
    code = "stage_failed"


class StageTimeLimit(StageFailed):
    code = "stage_time_limit"


class StageMemoryLimit(StageFailed):
    code = "stage_memory_limit"


class StageCrashed(StageFailed):
    code = "stage_crashed"


class JobCancelled(StageFailed):
    code = "job_cancelled"


def error_class(code: str) -> type[OctavoError]:
    """The class that a public code names; OctavoError where the code is unknown (an error from a newer process)."""
    pending: list[type[OctavoError]] = [OctavoError]
    while pending:
        candidate = pending.pop()
        if candidate.code == code:
            return candidate
        pending.extend(candidate.__subclasses__())
    return OctavoError
