"""The fixed requests that loads repeat, and the check that a server answers them right before it is measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.errors import CannotMeasure
from benchmarks.reference import Bare

HEADER_LENGTH = "Inference-Header-Content-Length"
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Payload:
    """One request body on disk with its headers."""

    kind: str
    body: Path
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Requests:
    """The same row of noise in every form that a server here takes, and bare ONNX Runtime's answer to it.

    `json` and `binary` are the Open Inference Protocol's; `raw` is the tensor's bytes alone; `nested` is
    `{"rows": [...]}` with the batch axis.
    """

    expected: list[float]
    json: Payload
    binary: Payload
    raw: Payload
    nested: Payload


def make_requests(bare: Bare, folder: Path) -> Requests:
    """Writes the bodies into `folder` and asks `bare` what the right answer is."""
    folder.mkdir(parents=True, exist_ok=True)
    model = bare.ask(do="describe")
    # Six decimals, so that the text forms carry exactly the row that the binary ones do, give or take a float's end.
    row = np.random.default_rng(0).random(model["row_shape"]).round(6).astype(np.float32)
    np.save(folder / "row.npy", row)
    texts = np.char.mod("%.6f", row[None])
    values = [float(text) for text in texts.ravel()]
    tensor = {"name": model["input"], "shape": [1, *row.shape], "datatype": "FP32"}
    return Requests(
        expected=bare.ask(do="answer", row=str(folder / "row.npy"))["values"],
        json=_json(folder, "json", {"inputs": [tensor | {"data": values}]}),
        binary=binary_request(folder, tensor, row),
        raw=_payload(folder, "raw", row.tobytes(), {"Content-Type": "application/octet-stream"}),
        nested=_json(folder, "nested", {"rows": np.reshape(np.array(values), texts.shape).tolist()}),
    )


def _json(folder: Path, kind: str, content: dict[str, Any]) -> Payload:
    return _payload(folder, kind, json.dumps(content).encode(), {"Content-Type": "application/json"})


def binary_request(folder: Path, tensor: dict[str, Any], row: np.ndarray[Any, Any]) -> Payload:
    """The protocol's binary extension, both ways: the JSON header, its length in an HTTP header, then the bytes."""
    data = row.tobytes()
    request = {
        "parameters": {"binary_data_output": True},
        "inputs": [tensor | {"parameters": {"binary_data_size": len(data)}}],
    }
    header = json.dumps(request).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return _payload(folder, "binary", header + data, headers)


def _payload(folder: Path, kind: str, content: bytes, headers: dict[str, str]) -> Payload:
    path = folder / kind
    path.write_bytes(content)
    return Payload(kind, path.absolute(), headers)


def check_answer(url: str, payload: Payload, expected: list[float]) -> None:
    """Posts the payload once. Raises CannotMeasure unless the answer is the reference's within 0.001."""
    answer = httpx.post(url, content=payload.body.read_bytes(), headers=payload.headers, timeout=30)
    if answer.status_code != 200:
        raise CannotMeasure(f"{url} answered {answer.status_code} to the {payload.kind} request: {answer.text[:500]}")
    values = _values(answer)
    if len(values) != len(expected) or not np.allclose(values, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise CannotMeasure(f"{url} answered {values[:3]}... where ONNX Runtime answers {expected[:3]}...")


def _values(answer: httpx.Response) -> list[float]:
    """All numbers of the answer's one tensor, in whichever form it came."""
    header = answer.headers.get(HEADER_LENGTH)
    if header is not None:
        return _floats(answer.content[int(header) :])
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return _floats(answer.content)
    content = answer.json()
    return list(_flat(content["outputs"][0]["data"] if isinstance(content, dict) else content))


def _floats(data: bytes) -> list[float]:
    values: list[float] = np.frombuffer(data, np.dtype("<f4")).tolist()
    return values


def _flat(values: Iterable[Any]) -> Iterable[float]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield float(value)
