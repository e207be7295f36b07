"""Reads the size of a PNG or JPEG from its header and checks that its end is there, before anything decodes it."""

from __future__ import annotations

import struct

from service.errors import InvalidImage

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_JPEG = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
# Start-of-frame markers hold the size; C4, C8 and CC share their range but mean tables and extensions.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_TRUNCATED = "the image is cut off: {what}; send the whole file"


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as the header states them. Raises InvalidImage for other formats and cut-off files."""
    if data.startswith(_PNG):
        return _png_size(data)
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    shown = data[:8].hex(" ") or "nothing"
    raise InvalidImage(f"the bytes are no JPEG or PNG image: they start with {shown}; send image/jpeg or image/png")


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise InvalidImage(_TRUNCATED.format(what=f"{len(data)} bytes hold no PNG header"))
    if data.rfind(_PNG_END) < 33:
        raise InvalidImage(_TRUNCATED.format(what=f"{len(data)} bytes of PNG without its end"))
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks the segments to the first frame for the size, then on to the first scan to look for the end behind it."""
    size: tuple[int, int] | None = None
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF or marker in _JPEG_BARE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == _JPEG_SCAN:
            return _jpeg_checked(data, position, size)
        if marker in _JPEG_FRAMES and size is None and position + 9 <= len(data):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            size = (width, height)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise InvalidImage(_TRUNCATED.format(what=f"{len(data)} bytes of JPEG hold no picture data"))


def _jpeg_checked(data: bytes, scan: int, size: tuple[int, int] | None) -> tuple[int, int]:
    # Inside picture data every FF is stuffed with 00, so FF D9 behind the scan is truly the end.
    if size is None or data.find(_JPEG_END, scan) < 0:
        raise InvalidImage(_TRUNCATED.format(what=f"{len(data)} bytes of JPEG without its end"))
    return size
