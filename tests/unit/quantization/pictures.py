"""Encoded pictures that tests start from."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def gradient(width: int = 12, height: int = 8) -> Pixels:
    """Blue grows to the right, green downwards, red is 200."""
    pixels = np.full((height, width, 3), 200, np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[:, :, 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, np.newaxis]
    return pixels


def encoded(pixels: npt.NDArray[Any], extension: str = ".png") -> bytes:
    done, data = cv2.imencode(extension, pixels)
    assert done
    return data.tobytes()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of data do not have."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"\x00"), b"IEND"]
    body = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
