"""Uploads over HTTP: streams a request's form to the spool off the event loop, and always cleans up after it.

Refuses a body that is not multipart, too large, stalled or cut short.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import anyio
from anyio.to_thread import run_sync
from fastapi import Request
from python_multipart.multipart import parse_options_header

from service.api.multipart import FormReader, Upload, UploadForm, storage_error, too_large
from service.api.request_body import body_chunks
from service.errors import InvalidRequest

_PORTION_BYTES = 1024 * 1024
_MAX_BOUNDARY = 70  # RFC 2046, 5.1.1
ABANDONED_SECONDS = 3600.0


@asynccontextmanager
async def received(request: Request, form: UploadForm, required: tuple[str, ...], spool: Path) -> AsyncIterator[Upload]:
    """The request's form. Its file lies alone in a folder of its own, which is deleted when the block ends.

    Raises what FormReader and body_chunks do.
    """
    boundary = _boundary(request)
    _refuse_declared_length(request, form)
    folder = spool / uuid4().hex
    reader = FormReader(boundary, form, folder / "file")
    try:
        await run_sync(_make, folder)
        await _feed(request, reader, form)
        yield await run_sync(reader.finish, required)
    finally:
        try:
            with anyio.CancelScope(shield=True):
                await run_sync(_discard, reader, folder)
        except asyncio.CancelledError:
            # A stopping server cancels again what has not ended, and such a cancellation knows no shield.
            _discard(reader, folder)
            raise


def prepare_spool(spool: Path) -> None:
    """Makes the spool and removes what a killed process left there: uploads untouched for an hour."""
    spool.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - ABANDONED_SECONDS
    for folder in spool.iterdir():
        # An upload to another process may end here meanwhile.
        with suppress(FileNotFoundError):
            touched = [path.stat().st_mtime for path in (folder, *folder.rglob("*"))]
            if max(touched) < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise storage_error(error, 0) from error


def _discard(reader: FormReader, folder: Path) -> None:
    with suppress(OSError):  # What could not be flushed is deleted next.
        reader.close()
    shutil.rmtree(folder, ignore_errors=True)


def _boundary(request: Request) -> bytes:
    header = request.headers.get("content-type", "")
    kind, options = parse_options_header(header)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > _MAX_BOUNDARY:
        raise InvalidRequest(
            f"the content type is {header[:80]!r}; send multipart/form-data with a boundary of 1 to 70 characters"
        )
    return boundary


def _refuse_declared_length(request: Request, form: UploadForm) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > form.max_body_bytes:
        raise too_large(form.max_file_bytes, declared)


async def _feed(request: Request, reader: FormReader, form: UploadForm) -> None:
    portion, total = bytearray(), 0
    async with aclosing(body_chunks(request)) as chunks:
        async for chunk in chunks:
            total += len(chunk)
            if total > form.max_body_bytes:
                raise too_large(form.max_file_bytes, f"over {form.max_body_bytes}")
            portion += chunk
            if len(portion) >= _PORTION_BYTES:
                await run_sync(reader.feed, bytes(portion))
                portion.clear()
    await run_sync(reader.feed, bytes(portion))
