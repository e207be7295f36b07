"""The wire form of infer messages, with the tensors' bytes found in a request, and put behind a response, uncopied.

protobuf would copy each tensor twice on its way in, and once more on its way out. What is not tensors, it reads itself.
"""

from __future__ import annotations

from typing import NamedTuple

from service.errors import InvalidInput
from service.protocol.heads import MAX_TENSORS

Part = bytes | memoryview

# A field's number and how it is written: 2 is bytes behind their length.
_ID = 3 << 3 | 2
_RAW_INPUT_CONTENTS = 7 << 3 | 2
_RAW_OUTPUT_CONTENTS = bytes([6 << 3 | 2])
_INFER_RESPONSE = bytes([2 << 3 | 2])
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
# Inputs, outputs, tensors and parameters: each takes time here that other requests wait for.
_MAX_FIELDS = 4 * MAX_TENSORS


class InferMessage(NamedTuple):
    """A ModelInferRequest taken apart: `head` is all of it but the id and the tensors.

    `raw` has start and size of each tensor in `message`, in order.
    """

    message: bytes
    head: bytes
    id: str
    raw: list[tuple[int, int]]


def take_apart(message: bytes) -> InferMessage:
    """Raises InvalidInput where the bytes are no message at all; the head may still be none."""
    kept: list[bytes] = []
    raw: list[tuple[int, int]] = []
    identity = b""
    at = kept_to = fields = 0
    end = len(message)
    try:
        while at < end:
            begin = at
            fields += 1
            if fields > _MAX_FIELDS:
                raise InvalidInput(f"the ModelInferRequest has more than {_MAX_FIELDS} fields; send fewer tensors")
            tag, at = _varint(message, at)
            if tag & 7 != _BYTES:
                at = _after(message, tag & 7, at)
                continue
            size, start = _varint(message, at)
            at = start + size
            if tag == _RAW_INPUT_CONTENTS:
                raw.append((start, size))
            elif tag == _ID:
                identity = message[start:at]
            else:
                continue
            kept.append(message[kept_to:begin])
            kept_to = at
    except IndexError:
        at = end + 1
    if at != end:
        raise InvalidInput(f"the {end} bytes are no ModelInferRequest: its last field is cut off; send it whole")
    kept.append(message[kept_to:])
    return InferMessage(message, b"".join(kept), _text(identity), raw)


def _text(identity: bytes) -> str:
    try:
        return identity.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"'id' is {identity[:40]!r}, which is not UTF-8; send text") from error


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where what follows begins. IndexError where it is cut off."""
    byte = message[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    for place in range(at + 1, at + _MAX_VARINT_BYTES):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise InvalidInput(f"the bytes are no ModelInferRequest: the number at byte {at} does not end; send protobuf")


def _after(message: bytes, kind: int, at: int) -> int:
    if kind == _VARINT:
        return _varint(message, at)[1]
    if kind == _EIGHT_BYTES:
        return at + 8
    if kind == _FOUR_BYTES:
        return at + 4
    raise InvalidInput(f"the bytes are no ModelInferRequest: the field before byte {at} is of no known kind")


def with_raw_contents(head: bytes, blobs: list[Part]) -> list[Part]:
    """The parts of a ModelInferResponse: `head` serialized without tensors, and those behind it."""
    parts: list[Part] = [head]
    for blob in blobs:
        parts += (_RAW_OUTPUT_CONTENTS, _written(len(blob)), blob)
    return parts


def in_stream(parts: list[Part]) -> list[Part]:
    """The parts of a ModelStreamInferResponse that holds the response of `parts`."""
    return [_INFER_RESPONSE, _written(sum([len(part) for part in parts])), *parts]


def _written(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
