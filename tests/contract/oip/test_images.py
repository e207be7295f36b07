"""Pictures: classified with their labels, and refused when they are none or too much."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.contract.oip.serving import LIMITS, Serving, error_of
from tests.served_models import STABLE

GREY = np.array([[0, 0], [255, 255]], np.uint8)


def encoded(pixels: Any, extension: str = ".png") -> bytes:
    done, data = cv2.imencode(extension, pixels)
    assert done
    return bytes(data)


def predict(serving: Serving, body: bytes, query: str = "", model: str = "linear", **headers: str) -> httpx.Response:
    return serving.client.post(f"{serving.url}/models/{model}/predict{query}", content=body, headers=headers)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is this large, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_picture_gets_labels_most_likely_first(serving: Serving) -> None:
    """Two white pixels below: y = (2 + 3) * (1, 2, 3), so the last class wins; it has no label but its index."""
    answer = predict(serving, encoded(GREY))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["version"], body["variant"]) == ("linear", 1, STABLE)
    assert [p["index"] for p in body["predictions"]] == [2, 1, 0]
    assert [p["label"] for p in body["predictions"]] == ["2", "dog", "cat"]
    scores = [p["score"] for p in body["predictions"]]
    assert sum(scores) == pytest.approx(1.0)
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-5) + np.exp(-10)))


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_jpeg_and_png_as_body_or_as_form(serving: Serving, extension: str) -> None:
    picture = encoded(np.kron(GREY, np.ones((8, 8), np.uint8)), extension)
    assert predict(serving, picture, "?top_k=1").json()["predictions"][0]["index"] == 2
    form = serving.client.post(f"{serving.url}/models/linear/predict", files={"file": ("p.png", picture)})
    assert form.json()["predictions"][0]["index"] == 2


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the picture is empty"),
        (b"this is text", 400, "JPEG or PNG"),
        (encoded(np.zeros((64, 64), np.uint8))[:40], 400, "send the whole file"),
        (
            encoded(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8), ".jpg")[:100],
            400,
            "send the whole file",
        ),
        (encoded(np.zeros((1, 1), np.uint8)), 400, "1 x 1"),
        (png_of_size(30_000, 10), 400, "30000 x 10"),
        (png_of_size(16_000, 16_000), 400, "256000000"),
        (bytes(LIMITS.max_image_bytes + 1), 413, f"send at most {LIMITS.max_image_bytes}"),
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG", "1x1", "30000 wide", "256 megapixels", "too many bytes"],
)
def test_what_is_no_picture_to_work_with_is_refused(serving: Serving, body: bytes, status: int, message: str) -> None:
    assert message in error_of(predict(serving, body), status)
    assert predict(serving, encoded(GREY)).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"no form", "multipart/form-data"),
        (b"no form", "multipart/form-data; boundary=b"),
        (
            b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b; charset=undefined",
        ),
    ],
)
def test_a_form_without_a_picture_is_refused(serving: Serving, content: bytes, kind: str) -> None:
    assert "'file'" in error_of(predict(serving, content, **{"Content-Type": kind}), 400)


def test_models_without_preprocessing_and_unknown_models_are_refused_with_the_next_step(serving: Serving) -> None:
    assert "upload it with 'preprocessing'" in error_of(predict(serving, encoded(GREY), model="fake"), 422)
    assert "'nothing' is not found" in error_of(predict(serving, encoded(GREY), model="nothing"), 404)
    error_of(predict(serving, encoded(GREY), model="NOT-ALLOWED"), 422)


@pytest.mark.parametrize("top_k", ["0", "-1", "1001", "many"])
def test_a_wrong_top_k_is_refused(serving: Serving, top_k: str) -> None:
    assert "top_k" in error_of(predict(serving, encoded(GREY), f"?top_k={top_k}"), 422)


def test_more_classes_than_there_are_is_all_of_them(serving: Serving) -> None:
    assert len(predict(serving, encoded(GREY), "?top_k=1000").json()["predictions"]) == 3
