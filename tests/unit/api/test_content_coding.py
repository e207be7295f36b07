"""Compressed bodies in and out."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from service.api.content_coding import CODINGS, deflated, inflated, wanted_coding
from service.errors import InputTooLarge, InvalidInput, Unsupported

BODY = b"tensor" * 10_000
COMPRESSED = {b"gzip": gzip.compress(BODY), b"deflate": zlib.compress(BODY)}


def inflate(body: bytes, coding: bytes, limit: int = 1_000_000) -> bytes:
    return asyncio.run(inflated(body, coding, limit))


@pytest.mark.parametrize("coding", CODINGS)
def test_bodies_go_both_ways(coding: bytes) -> None:
    assert inflate(COMPRESSED[coding], coding) == BODY
    assert inflate(COMPRESSED[coding], coding.upper() + b" ") == BODY
    for body in (BODY, b"short"):
        assert inflate(asyncio.run(deflated(body, coding)), coding) == body


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_refused_at_the_limit(coding: bytes) -> None:
    bomb = {b"gzip": gzip.compress(bytes(10_000_000)), b"deflate": zlib.compress(bytes(10_000_000))}[coding]
    with pytest.raises(InputTooLarge, match="inflates to over 1000000 bytes"):
        inflate(bomb, coding)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b + b"more", lambda b: b"plain", lambda b: b""])
def test_a_damaged_body_is_refused(coding: bytes, damage: object) -> None:
    with pytest.raises(InvalidInput, match=r"is not|cut short or followed"):
        inflate(damage(COMPRESSED[coding]), coding)  # type: ignore[operator]


def test_other_codings_are_refused_and_identity_is_none() -> None:
    assert inflate(b"plain", b"identity") == b"plain"
    with pytest.raises(Unsupported, match="Unsupported compression type 'br'"):
        inflate(b"", b"br")


@pytest.mark.parametrize(
    ("accept", "coding"),
    [(None, None), (b"gzip", b"gzip"), (b" Deflate", b"deflate"), (b"gzip, deflate, br", None), (b"*", None)],
)
def test_only_a_single_coding_is_a_wish(accept: bytes | None, coding: bytes | None) -> None:
    assert wanted_coding(accept) == coding
