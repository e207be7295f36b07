"""The picture in a predict request: the body itself, or the `file` of a form. Refuses one too long, and none at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.request_body import body_chunks
from service.domain.limits import InferLimits
from service.errors import InputTooLarge, InvalidImage, InvalidInput

# Boundaries and part headers around the picture.
_FORM_BYTES = 16 * 1024


async def read_image(request: Request, limits: InferLimits) -> bytes:
    """The encoded picture. Raises InputTooLarge, InvalidImage for an empty body, InvalidInput for a wrong form."""
    form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    body = await _bounded(request, limits.max_image_bytes + (_FORM_BYTES if form else 0))
    image = await _file_part(request, body) if form else body
    if not image:
        raise InvalidImage("the picture is empty (0 bytes); send a JPEG or PNG as the body, or as a form's part 'file'")
    return image


async def _bounded(request: Request, limit: int) -> bytes:
    body = bytearray()
    async with aclosing(body_chunks(request)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise InputTooLarge(f"the picture has over {limit} bytes; send at most {limit}")
    return bytes(body)


async def _file_part(request: Request, body: bytes) -> bytes:
    async def once() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, once(), max_files=1, max_fields=8, max_part_size=_FORM_BYTES)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        raise InvalidInput(f"the multipart form cannot be read: {error}; send one part 'file'") from error
    try:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise InvalidInput("the form has no part 'file' with a file name; send the picture as that part")
        return await part.read()
    finally:
        await form.close()
