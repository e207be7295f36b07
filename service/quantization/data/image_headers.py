"""Reads the size of a PNG or JPEG from its header and checks that its end is there, before anything decodes it."""

from __future__ import annotations

import re
import struct

from service.errors import InvalidImage

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_JPEG = b"\xff\xd8"
_JPEG_START, _JPEG_END, _JPEG_SCAN = 0xD8, 0xD9, 0xDA
# Start-of-frame markers hold the size; C4, C8 and CC share their range but mean tables and extensions.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# As decoders look for the next marker: past stuffed zeros, fill bytes, restarts and whatever else lies there.
_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
# Each scan of a few bytes has the decoder pass over the whole picture once more; encoders write about ten.
_MAX_JPEG_SCANS = 100
_MAX_JPEG_SEGMENTS = 4096
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
    """Walks the segments as a decoder does: to the first frame for the size, and past every scan to the end."""
    size: tuple[int, int] | None = None
    scans, position = 0, 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            break
        marker, position = found[1][0], found.end()
        if marker == _JPEG_END:
            if size is None or not scans:
                break
            return size
        if marker == _JPEG_SCAN:
            scans += 1
            if scans > _MAX_JPEG_SCANS:
                raise InvalidImage(f"the JPEG has over {_MAX_JPEG_SCANS} scans; save it again as baseline JPEG")
        elif marker in _JPEG_FRAMES and size is None and position + 7 <= len(data):
            height, width = struct.unpack(">HH", data[position + 3 : position + 7])
            size = (width, height)
        if marker != _JPEG_START:
            position += int.from_bytes(data[position : position + 2], "big")
    else:
        raise InvalidImage(f"the JPEG has over {_MAX_JPEG_SEGMENTS} segments; save it again without its metadata")
    what = "without its end" if scans else "hold no picture data"
    raise InvalidImage(_TRUNCATED.format(what=f"{len(data)} bytes of JPEG {what}"))
