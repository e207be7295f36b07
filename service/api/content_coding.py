"""Compressed bodies of inference requests and responses. Refuses codings beside gzip and deflate, and bombs."""

from __future__ import annotations

import asyncio
import gzip
import zlib

from service.errors import InputTooLarge, InvalidInput, Unsupported

CODINGS = (b"gzip", b"deflate")
_WINDOW = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
# Shorter bodies are done where they are; longer ones would hold up every other request.
_INLINE_BYTES = 16 * 1024


async def inflated(body: bytes, coding: bytes, max_bytes: int) -> bytes:
    """The body before its compression. Raises Unsupported, InvalidInput, or InputTooLarge over `max_bytes`."""
    coding = coding.strip().lower()
    if coding == b"identity":
        return body
    if coding not in _WINDOW:
        raise Unsupported(
            f"Unsupported compression type {coding[:40].decode('latin-1')!r}; send gzip, deflate, or the plain body"
        )
    # Always in a thread: a short body may hide a long one.
    return await asyncio.to_thread(_inflate, body, coding, max_bytes)


def _inflate(body: bytes, coding: bytes, max_bytes: int) -> bytes:
    decoder = zlib.decompressobj(_WINDOW[coding])
    try:
        plain = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not {coding.decode()}: {error}; send it as Content-Encoding says") from error
    if len(plain) > max_bytes:
        raise InputTooLarge(f"the body inflates to over {max_bytes} bytes; send at most {max_bytes}")
    if not decoder.eof or decoder.unused_data:
        raise InvalidInput(f"the {coding.decode()} body is cut short or followed by more; send exactly one stream")
    return plain


def wanted_coding(accept: bytes | None) -> bytes | None:
    """The coding of the response: the one that is asked for alone.

    Client libraries offer lists of codings on their own; only a single one is somebody's wish.
    """
    if accept is None:
        return None
    coding = accept.strip().lower()
    return coding if coding in _WINDOW else None


async def deflated(body: bytes, coding: bytes) -> bytes:
    """The body under `coding`, one of CODINGS; fast rather than small."""
    if len(body) <= _INLINE_BYTES:
        return _deflate(body, coding)
    return await asyncio.to_thread(_deflate, body, coding)


def _deflate(body: bytes, coding: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0) if coding == b"gzip" else zlib.compress(body, level=1)
