"""Pictures become tensors exactly as described, and whatever is no sound picture is refused before it is decoded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.limits import InferLimits
from service.domain.model import Preprocessing
from service.errors import InputTooLarge, InvalidImage, InvalidInput, InvalidPreprocessing
from service.quantization.data.preprocessing import checked_preprocessing, decode_image, preprocess_image
from tests.unit.quantization.pictures import encoded, gradient, png_claiming

LIMITS = InferLimits()
DESCRIPTION: dict[str, Any] = {
    "task": "classification", "width": 12, "height": 8, "layout": "NCHW", "color": "BGR", "resize": "stretch",
    "scale": 1.0, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
}  # fmt: skip


def described(**changes: Any) -> Preprocessing:
    return checked_preprocessing(DESCRIPTION | changes)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_picture_decodes_to_the_pixels_that_were_encoded(extension: str) -> None:
    pixels = gradient()
    decoded = decode_image(encoded(pixels, extension), LIMITS)
    assert decoded.shape == (8, 12, 3)
    assert np.abs(decoded.astype(int) - pixels).max() <= (0 if extension == ".png" else 30)


def test_a_gray_png_decodes_to_three_equal_channels() -> None:
    decoded = decode_image(encoded(gradient()[:, :, 0]), LIMITS)
    assert decoded.shape == (8, 12, 3)
    assert (decoded[:, :, 0] == decoded[:, :, 2]).all()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "they start with nothing"),
        (b"this is text, not a picture", "no JPEG or PNG image: they start with 74 68 69 73"),
        (b"GIF89a" + bytes(40), "no JPEG or PNG"),
        (encoded(gradient())[:20], "hold no PNG header"),
        (encoded(gradient())[:60], "PNG without its end"),
        (encoded(gradient(), ".jpg")[:100], "hold no picture data"),
        (encoded(gradient(), ".jpg")[:-2], "JPEG without its end"),
        (b"\xff\xd8\xff", "hold no picture data"),
        (png_claiming(30_000, 10), "30000 x 10 pixels; send at most 16384 on a side"),
        (png_claiming(16_000, 16_000), "256000000 in all; send at most 50000000"),
        (png_claiming(0, 10), "0 x 10 pixels; send at least 2 x 2"),
        (encoded(np.zeros((1, 1, 3), np.uint8)), "1 x 1 pixels; send at least 2 x 2"),
        (png_claiming(5, 5)[:-20] + bytes(8) + b"IEND" + bytes(8), "cannot be decoded"),
    ],
)
def test_what_is_no_sound_picture_is_refused_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(InvalidImage, match=words):
        decode_image(data, LIMITS)


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more, behind a comment that holds an end marker."""
    whole = cv2.imencode(".jpg", gradient(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    end, last = whole.rindex(b"\xff\xd9"), whole.rindex(b"\xff\xda")
    return whole[:end] + b"\xff\xfe\x00\x04\xff\xd9" + whole[last:end] * scans + whole[end:]


def test_a_jpeg_of_endless_scans_is_refused_before_a_decoder_passes_over_each() -> None:
    assert decode_image(progressive(10), LIMITS).shape == gradient().shape
    with pytest.raises(InvalidImage, match="over 100 scans"):
        decode_image(progressive(200), LIMITS)


def test_what_hides_in_metadata_or_behind_the_end_is_no_part_of_a_jpeg() -> None:
    whole = encoded(gradient(), ".jpg")
    thumbnail = b"\xff\xe1" + (len(whole) + 2).to_bytes(2, "big") + whole
    assert decode_image(whole[:2] + thumbnail + whole[2:] + b"\xff\xda" * 200, LIMITS).shape == gradient().shape
    with pytest.raises(InvalidImage, match="over 4096 segments"):
        decode_image(whole[:2] + b"\xff\xfe\x00\x02" * 5000 + whole[2:], LIMITS)


def test_a_claimed_size_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("a picture over the limit was decoded"))
    with pytest.raises(InvalidImage, match="16384"):
        decode_image(png_claiming(100_000, 100_000), LIMITS)


def test_a_file_over_the_byte_limit_is_too_large() -> None:
    data = encoded(gradient())
    with pytest.raises(InputTooLarge, match=f"has {len(data)} bytes; send at most 100"):
        decode_image(data, InferLimits(max_image_bytes=100))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xc0"]))
@settings(max_examples=150, deadline=None)
def test_random_bytes_never_do_worse_than_a_clear_refusal(data: bytes, start: bytes) -> None:
    with pytest.raises(InvalidInput, match="; send"):
        decode_image(start + data, LIMITS)


def test_a_picture_of_the_right_size_keeps_its_pixels_and_takes_the_wanted_layout() -> None:
    pixels = gradient()
    assert (preprocess_image(pixels, described())[0] == pixels.transpose(2, 0, 1)).all()
    by_row = preprocess_image(pixels, described(layout="NHWC"))
    assert by_row.dtype == np.float32
    assert (by_row == pixels[np.newaxis]).all()


def test_color_order_and_gray_follow_the_description() -> None:
    pixels = gradient()
    assert (preprocess_image(pixels, described(color="RGB"))[0, 0] == pixels[:, :, 2]).all()
    gray = preprocess_image(pixels, described(color="GRAY", mean=[0.0], std=[1.0]))
    assert gray.shape == (1, 1, 8, 12)
    assert (gray[0, 0] == cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)).all()


def test_values_are_scaled_then_shifted_then_divided() -> None:
    values = preprocess_image(gradient(), described(scale=0.5, mean=[0.0, 0.0, 10.0], std=[1.0, 1.0, 4.0]))
    assert np.allclose(values[0, 2], (200 * 0.5 - 10) / 4)


def test_one_mean_serves_all_channels() -> None:
    assert np.allclose(preprocess_image(gradient(), described(mean=[100.0], std=[2.0]))[0, 2], 50)


def test_stretch_ignores_the_shape_and_averages_where_it_shrinks() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, ::2] = 100
    shrunk = preprocess_image(pixels, described(width=4, height=4))
    assert shrunk.shape == (1, 3, 4, 4)
    assert (shrunk == 50).all()


def test_center_crop_cuts_both_long_ends_alike() -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 90
    cropped = preprocess_image(pixels, described(width=4, height=4, resize="center_crop"))
    assert (cropped == 90).all()


def test_letterbox_keeps_the_whole_picture_and_pads_with_grey() -> None:
    boxed = preprocess_image(np.full((4, 8, 3), 10, np.uint8), described(width=8, height=8, resize="letterbox"))
    assert (boxed[0, :, 2:6] == 10).all()
    assert (boxed[0, :, :2] == 114).all()
    assert (boxed[0, :, 6:] == 114).all()


@pytest.mark.parametrize("resize", ["stretch", "center_crop", "letterbox"])
@given(width=st.integers(2, 40), height=st.integers(2, 40))
@settings(max_examples=25, deadline=None)
def test_any_picture_comes_out_in_the_described_shape(resize: str, width: int, height: int) -> None:
    values = preprocess_image(gradient(width, height), described(width=7, height=5, resize=resize))
    assert values.shape == (1, 3, 5, 7)
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "detection"}, "task is 'detection'; send one of classification"),
        ({"width": 0}, "width is 0; send an integer from 1 to 4096"),
        ({"width": True}, "width is True"),
        ({"height": 5000}, "height is 5000"),
        ({"height": "8"}, "height is '8'"),
        ({"layout": "CHW"}, "layout is 'CHW'"),
        ({"color": ["RGB"]}, r"color is \['RGB'\]; send one of RGB, BGR, GRAY"),
        ({"resize": "crop"}, "resize is 'crop'"),
        ({"scale": 0}, "scale is 0; send a number other than 0"),
        ({"scale": float("nan")}, "scale is nan; send finite numbers"),
        ({"scale": 10**400}, "send finite numbers"),
        ({"mean": [0.0, 1.0]}, r"mean is \[0.0, 1.0\]; send a list of 1 or 3 numbers"),
        ({"mean": ["a", 0, 0]}, "mean is 'a'; send numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "std is 0.0; send a number other than 0"),
        ({"std": 1.0}, "std is 1.0; send a list"),
        ({"color": "GRAY"}, "send a list of 1 or 1 numbers"),
        ({"pad": 1}, "unknown fields pad"),
    ],
)
def test_a_description_that_cannot_hold_is_refused_by_field_and_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidPreprocessing, match=words):
        described(**changes)


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_description_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidPreprocessing, match="send a JSON object"):
        checked_preprocessing(value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidPreprocessing, match="lacks std"):
        checked_preprocessing({name: value for name, value in DESCRIPTION.items() if name != "std"})


def test_the_module_loads_neither_opencv_nor_a_runtime() -> None:
    code = (
        "import sys, service.quantization.data.preprocessing;"
        "print([m for m in ('onnx', 'onnxruntime', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
