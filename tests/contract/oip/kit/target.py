"""The server under test and the model that is asked for: requests built from its own metadata, answers taken apart."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
HEADER = "Inference-Header-Content-Length"
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "BF16": np.uint16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip


class NotOffered(Exception):
    """The server does not claim what a check is about, or the model cannot show it."""


@dataclass(frozen=True)
class Answer:
    """One answered request."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON part, which ends where the header says so."""
        return json.loads(self.body[: self.json_length])

    @property
    def json_length(self) -> int:
        return int(self.headers.get(HEADER, len(self.body)))

    def tensors(self) -> dict[str, Array]:
        """The outputs by name. Fails where framing, sizes and shapes do not add up."""
        assert self.status == 200, f"status {self.status}: {self.body[:300]!r}"
        at, arrays = self.json_length, {}
        for output in self.json["outputs"]:
            shape, kind = output["shape"], output["datatype"]
            if "data" in output:
                values = np.array(output["data"], np.float32 if kind == "BF16" else DTYPES[kind])
            else:
                size = output["parameters"]["binary_data_size"]
                values = decoded(self.body[at : at + size], kind)
                at += size
            assert values.size == math.prod(shape), f"{output['name']} has {values.size} elements for shape {shape}"
            arrays[output["name"]] = values.reshape(shape)
        assert at == len(self.body), f"{len(self.body) - at} bytes behind the last output"
        return arrays


@dataclass
class Target:
    """`shapes` replaces what the metadata leaves open."""

    client: httpx.Client
    model: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/v2/models/{self.model}"

    def get(self, path: str) -> Answer:
        return _answer(self.client.get(path))

    def post(self, path: str, body: bytes | dict[str, Any] = b"", **headers: str) -> Answer:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        return _answer(self.client.post(path, content=content, headers=headers))

    def infer(self, body: bytes | dict[str, Any], **headers: str) -> Answer:
        return self.post(f"{self.path}/infer", body, **headers)

    def infer_binary(self, head: dict[str, Any], tail: bytes, **headers: str) -> Answer:
        text = json.dumps(head).encode()
        return self.infer(text + tail, **{HEADER: str(len(text))}, **headers)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        return dict(self.get(self.path).json)

    @cached_property
    def extensions(self) -> list[str]:
        return list(self.get("/v2").json.get("extensions", []))

    def needs(self, extension: str) -> None:
        """Raises NotOffered where the server does not list the extension."""
        if extension not in self.extensions:
            raise NotOffered(f"{extension!r} is not among the server's extensions")

    @property
    def batched(self) -> bool:
        return all(spec["shape"][:1] == [-1] for spec in (*self.metadata["inputs"], *self.metadata["outputs"]))

    def arrays(self, rows: int = 1, seed: int = 0) -> dict[str, Array]:
        """Values that fit the model's inputs; the same seed gives the same rows."""
        random = np.random.default_rng(seed)
        arrays = {}
        for spec in self.metadata["inputs"]:
            shape = self.shapes.get(spec["name"]) or [1 if extent == -1 else extent for extent in spec["shape"]]
            shape = [rows, *shape[1:]] if self.batched else list(shape)
            values = random.integers(0, 2, shape) if spec["datatype"][0] in "BIU" else random.random(shape)
            arrays[spec["name"]] = _typed(values, spec["datatype"])
        return arrays

    def datatype(self, name: str) -> str:
        return next(str(spec["datatype"]) for spec in self.metadata["inputs"] if spec["name"] == name)

    def json_inputs(self, arrays: Mapping[str, Array], nested: bool = False) -> list[dict[str, Any]]:
        """Raises NotOffered for datatypes that JSON cannot carry."""
        inputs = []
        for name, array in arrays.items():
            kind = self.datatype(name)
            if kind in ("FP16", "BF16"):
                raise NotOffered(f"input {name!r} is {kind}, which JSON does not carry")
            data = array if kind != "BYTES" else np.vectorize(bytes.decode, otypes=[object])(array)
            values = data.tolist() if nested else data.reshape(-1).tolist()
            inputs.append({"name": name, "shape": list(array.shape), "datatype": kind, "data": values})
        return inputs

    def binary_inputs(self, arrays: Mapping[str, Array]) -> tuple[list[dict[str, Any]], bytes]:
        inputs, tails = [], []
        for name, array in arrays.items():
            tail = encoded(array)
            inputs.append(
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": self.datatype(name),
                    "parameters": {"binary_data_size": len(tail)},
                }
            )
            tails.append(tail)
        return inputs, b"".join(tails)

    def answer_of(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What the server answers these inputs in the plainest way, binary in and out."""
        inputs, tail = self.binary_inputs(arrays)
        return self.infer_binary({"inputs": inputs, "parameters": {"binary_data_output": True}}, tail).tensors()


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def _typed(values: Array, kind: str) -> Array:
    if kind == "BYTES":
        return np.array(np.vectorize(lambda value: str(value).encode(), otypes=[object])(values))
    if kind == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(DTYPES[kind])


def encoded(array: Array) -> bytes:
    """The binary extension's bytes of an array."""
    if array.dtype.kind == "O":
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.reshape(-1))
    return array.tobytes()


def decoded(data: bytes, kind: str) -> Array:
    """A flat array of the binary extension's bytes."""
    if kind != "BYTES":
        return np.frombuffer(data, DTYPES[kind])
    items, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        items.append(data[at + 4 : end])
        at = end
    assert at == len(data), "a BYTES element runs past its tensor"
    return np.array([*items, None], np.object_)[:-1]


def same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two answers are the same but for the rounding of batches of other sizes."""
    return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind == "O":
        return [_bytes(item) for item in one.reshape(-1)] == [_bytes(item) for item in other.reshape(-1)]
    return bool(np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=1e-3, atol=1e-4, equal_nan=True))


def _bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def refused(answer: Answer, *statuses: int) -> str:
    """The message of a refusal: a JSON object with a text under `error`, under one of these statuses."""
    assert answer.status in statuses, f"status {answer.status} instead of {statuses}: {answer.body[:300]!r}"
    error = json.loads(answer.body)["error"]
    assert isinstance(error, str), f"'error' is {error!r}"
    assert error, "'error' is empty"
    return error
