"""From encoded pictures to input tensors: checks the description, decodes within limits, resizes and normalises.

OpenCV is imported at the first picture only. Refuses everything but JPEG and PNG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.domain.limits import InferLimits
from service.domain.model import Preprocessing
from service.errors import InputTooLarge, InvalidImage, InvalidPreprocessing
from service.quantization.data.image_headers import image_size

TASKS = ("classification",)
LAYOUTS = ("NCHW", "NHWC")
COLORS = ("RGB", "BGR", "GRAY")
RESIZES = ("stretch", "center_crop", "letterbox")
MAX_INPUT_SIDE = 4096
MIN_IMAGE_SIDE = 2
# The grey that detectors' training pipelines pad with.
LETTERBOX_FILL = 114
_FIELDS = ("task", "width", "height", "layout", "color", "resize", "scale", "mean", "std")

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]


def decode_image(data: bytes, limits: InferLimits) -> Pixels:
    """JPEG or PNG bytes to UINT8 [height, width, 3], BGR, turned upright as its EXIF data says.

    The size is read from the header and checked before decoding. Raises InvalidImage or InputTooLarge.
    """
    import cv2

    if len(data) > limits.max_image_bytes:
        raise InputTooLarge(f"the image has {len(data)} bytes; send at most {limits.max_image_bytes}")
    _check_size(*image_size(data), limits)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InvalidImage(f"the image cannot be decoded: {error.err}; send a valid JPEG or PNG") from error
    if pixels is None:
        raise InvalidImage(f"the {len(data)} bytes look like an image but cannot be decoded; send a valid JPEG or PNG")
    return np.asarray(pixels, dtype=np.uint8)


def _check_size(width: int, height: int, limits: InferLimits) -> None:
    shown = f"the image is {width} x {height} pixels"
    if min(width, height) < MIN_IMAGE_SIDE:
        raise InvalidImage(f"{shown}; send at least {MIN_IMAGE_SIDE} x {MIN_IMAGE_SIDE}")
    if max(width, height) > limits.max_image_side:
        raise InvalidImage(f"{shown}; send at most {limits.max_image_side} on a side")
    if width * height > limits.max_image_pixels:
        raise InvalidImage(f"{shown}, {width * height} in all; send at most {limits.max_image_pixels}")


def preprocess_image(pixels: Pixels, preprocessing: Preprocessing) -> Tensor:
    """UINT8 [height, width, 3] in BGR to FP32 [1, C, H, W] or [1, H, W, C], C being 1 for GRAY.

    `stretch` ignores the aspect ratio, `center_crop` cuts the largest centred area of the wanted ratio first, and
    `letterbox` fits the whole picture and pads with grey. Values become (pixel * scale - mean) / std.
    """
    resized = _RESIZERS[preprocessing.resize](pixels, preprocessing.width, preprocessing.height)
    values = _colored(resized, preprocessing.color).astype(np.float32)
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    values = (values * np.float32(preprocessing.scale) - mean) / std
    if preprocessing.layout == "NCHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[np.newaxis])


def _colored(pixels: Pixels, color: str) -> npt.NDArray[np.uint8]:
    import cv2

    if color == "GRAY":
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), dtype=np.uint8)[:, :, np.newaxis]
    return pixels[:, :, ::-1] if color == "RGB" else pixels


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Area averaging where the picture shrinks, for it leaves no aliases; linear where it grows."""
    import cv2

    shrinks = width <= pixels.shape[1] and height <= pixels.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method), dtype=np.uint8)


def _center_crop(pixels: Pixels, width: int, height: int) -> Pixels:
    rows, columns = pixels.shape[:2]
    ratio = min(columns / width, rows / height)
    kept_columns, kept_rows = max(1, round(width * ratio)), max(1, round(height * ratio))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    return _resized(pixels[top : top + kept_rows, left : left + kept_columns], width, height)


def _letterbox(pixels: Pixels, width: int, height: int) -> Pixels:
    rows, columns = pixels.shape[:2]
    ratio = min(width / columns, height / rows)
    fitted_width, fitted_height = max(1, round(columns * ratio)), max(1, round(rows * ratio))
    canvas = np.full((height, width, 3), LETTERBOX_FILL, dtype=np.uint8)
    top, left = (height - fitted_height) // 2, (width - fitted_width) // 2
    canvas[top : top + fitted_height, left : left + fitted_width] = _resized(pixels, fitted_width, fitted_height)
    return canvas


_RESIZERS: dict[str, Callable[[Pixels, int, int], Pixels]] = {
    "stretch": _resized,
    "center_crop": _center_crop,
    "letterbox": _letterbox,
}


def checked_preprocessing(value: object) -> Preprocessing:
    """The description as a frozen value. Raises InvalidPreprocessing naming the field, its value and the next step."""
    if not isinstance(value, dict):
        raise InvalidPreprocessing(f"preprocessing is {type(value).__name__}; send a JSON object")
    unknown, missing = set(value) - set(_FIELDS), [field for field in _FIELDS if field not in value]
    if unknown or missing:
        raise InvalidPreprocessing(
            f"preprocessing lacks {', '.join(missing) or 'nothing'} and has the unknown fields "
            f"{', '.join(sorted(str(name)[:80] for name in unknown)) or '(none)'}; send exactly {', '.join(_FIELDS)}"
        )
    channels = 1 if value["color"] == "GRAY" else 3
    return Preprocessing(
        task=_word(value, "task", TASKS),
        width=_side(value, "width"),
        height=_side(value, "height"),
        layout=_word(value, "layout", LAYOUTS),
        color=_word(value, "color", COLORS),
        resize=_word(value, "resize", RESIZES),
        scale=_factor("scale", value["scale"]),
        mean=_numbers(value, "mean", channels),
        std=tuple(_factor("std", number) for number in _numbers(value, "std", channels)),
    )


def _word(value: dict[str, Any], field: str, known: Sequence[str]) -> str:
    word = value[field]
    if not isinstance(word, str) or word not in known:
        raise InvalidPreprocessing(f"preprocessing.{field} is {word!r:.80}; send one of {', '.join(known)}")
    return word


def _side(value: dict[str, Any], field: str) -> int:
    side = value[field]
    if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= MAX_INPUT_SIDE:
        raise InvalidPreprocessing(f"preprocessing.{field} is {side!r:.80}; send an integer from 1 to {MAX_INPUT_SIDE}")
    return side


def _factor(field: str, number: object) -> float:
    checked = _number(field, number)
    if checked == 0 or abs(np.float32(checked)) < np.finfo(np.float32).tiny:
        raise InvalidPreprocessing(f"preprocessing.{field} is {number!r:.80}; send a number other than 0")
    return checked


def _number(field: str, number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidPreprocessing(f"preprocessing.{field} is {number!r:.80}; send numbers")
    try:
        checked = float(number)
    except OverflowError:
        checked = math.inf
    if not math.isfinite(checked) or abs(checked) > float(np.finfo(np.float32).max):
        raise InvalidPreprocessing(f"preprocessing.{field} is {number!r:.80}; send finite numbers")
    return checked


def _numbers(value: dict[str, Any], field: str, channels: int) -> tuple[float, ...]:
    numbers = value[field]
    if not isinstance(numbers, list | tuple) or len(numbers) not in (1, channels):
        raise InvalidPreprocessing(
            f"preprocessing.{field} is {numbers!r:.80}; send a list of 1 or {channels} numbers, as color has channels"
        )
    return tuple(_number(field, number) for number in numbers)
