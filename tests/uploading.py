"""Uploads as a client would send them, small and valid unless a test spoils them."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np

from tests.installation import DIGITS


def digits_model(tag: str = "") -> bytes:
    """The shipped model; each tag, of up to 100 characters, gives other bytes that mean the same."""
    data = (DIGITS / "digits.onnx").read_bytes()
    # Field 6 of the protobuf is the model's documentation.
    return data + (bytes([6 << 3 | 2, len(tag)]) + tag.encode() if tag else b"")


def npz(**arrays: Any) -> bytes:
    """An .npz of these arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def digits_rows(rows: int = 4, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random rows of the shipped model's input."""
    return np.random.default_rng(seed).random((rows, 1, 8, 8), dtype=np.float32)


def post_model(client: httpx.Client, data: bytes | None = None, name: str = "digits", **parts: str) -> httpx.Response:
    """POST /models; `filename` and `labels` go where they belong, every other part is a plain field."""
    filename = parts.pop("filename", "model.onnx")
    files: dict[str, Any] = {"file": (filename, digits_model() if data is None else data)}
    if "labels" in parts:
        files["labels"] = ("labels.txt", parts.pop("labels").encode())
    return client.post("/models", data={"name": name} | parts, files=files)


def post_dataset(client: httpx.Client, data: bytes | None = None, name: str = "rows", **parts: str) -> httpx.Response:
    """POST /datasets; `filename` goes where it belongs, every other part is a plain field."""
    filename = parts.pop("filename", "rows.npz")
    sent = npz(input=digits_rows(), labels=np.arange(4)) if data is None else data
    return client.post("/datasets", data={"name": name} | parts, files={"file": (filename, sent)})


def refusal(answer: httpx.Response, status: int, *words: str) -> dict[str, str]:
    """The error's body, which must hold these words, and nothing but the contract's two fields."""
    assert answer.status_code == status, answer.text
    body: dict[str, str] = answer.json()
    assert set(body) == {"error", "code"}
    for word in words:
        assert word in body["error"], (word, body["error"])
    return body
