"""Infer requests to throw at the codec: whole ones, and ones after accidents to their text, types and framing."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.domain.tensor import NUMPY_TYPES

# A body, and its Inference-Header-Content-Length where it has one.
Case = tuple[bytes, bytes | None]
TYPES = tuple(NUMPY_TYPES)
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**30, "", "x",
    "\x00", "\ud800", "FP32", [], {}, [[]], [None], {"a": 1}, [1, [2]], "9" * 400,
)  # fmt: skip
_ODD_NAMES = ("", "\x00", "a\x00b", "\ud800", "/", "~", "data\x00", "\U0001f600", "n" * 300)
_FRAGMENTS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\u", b"\\ud800", b"\xff", b"\x00", b"NaN", b"-Infinity", b"1e999",
    b"-", b"null", b'"data"', b'"shape"', b"[" * 200, b'{"a":' * 120, b"\xef\xbb\xbf", b"9" * 30,
)  # fmt: skip


def whole_case(dice: random.Random) -> Case:
    """A request that is well formed, if not always one that fits itself."""
    if dice.random() < 0.05:
        return dice.randbytes(dice.randrange(40)), b"0"
    tails = []
    inputs = []
    for number in range(dice.choice((1, 1, 1, 2, 3))):
        tensor, tail = _tensor(dice, f"t{number}")
        inputs.append(tensor)
        tails.append(tail)
    value: dict[str, Any] = {"inputs": inputs}
    if dice.random() < 0.4:
        value["outputs"] = [_output(dice, tensor["name"]) for tensor in inputs]
    if dice.random() < 0.4:
        value["parameters"] = _parameters(dice)
    if dice.random() < 0.3:
        value["id"] = dice.choice(("", "1", "ü", "\ud83d\ude00", "\ud800"))
    text = json.dumps(value, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    tail = b"".join(tails)
    return text + tail, str(len(text)).encode() if tail or dice.random() < 0.3 else None


def _tensor(dice: random.Random, name: str) -> tuple[dict[str, Any], bytes]:
    kind = dice.choice(TYPES)
    shape = [dice.choice((0, 1, 1, 2, 3)) for _ in range(dice.choice((1, 2, 2, 3)))]
    count = int(np.prod(shape))
    tensor: dict[str, Any] = {"name": name, "shape": shape, "datatype": kind}
    if dice.random() < 0.5:
        tensor["data"] = _nested([_value(dice, kind) for _ in range(count)], shape if dice.random() < 0.5 else [count])
        return tensor, b""
    tail = _binary(dice, kind, count)
    tensor["parameters"] = {"binary_data_size": len(tail)}
    return tensor, tail


def _value(dice: random.Random, kind: str) -> Any:
    if kind == "BOOL":
        return dice.random() < 0.5
    if kind == "BYTES":
        return dice.choice(("", "a", "grün", "\x00", "\ud83d\ude00"))
    dtype = NUMPY_TYPES[kind]
    if dtype.kind == "f":
        return dice.choice((0, -1.5, 1e-30, 65504.0, 3, float("nan"), float("-inf")))
    limits = np.iinfo(dtype)
    return dice.choice((0, 1, int(limits.max), int(limits.min)))


def _nested(values: list[Any], shape: Sequence[int]) -> list[Any]:
    if len(shape) < 2 or 0 in shape:
        return values
    step = len(values) // shape[0]
    return [_nested(values[at : at + step], shape[1:]) for at in range(0, len(values), step)]


def _binary(dice: random.Random, kind: str, count: int) -> bytes:
    if kind == "BOOL":
        return bytes(dice.randrange(2) for _ in range(count))
    if kind == "BYTES":
        words = [dice.randbytes(dice.choice((0, 1, 5))) for _ in range(count)]
        return b"".join(len(word).to_bytes(4, "little") + word for word in words)
    return dice.randbytes(count * NUMPY_TYPES[kind].itemsize)


def _output(dice: random.Random, name: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if dice.random() < 0.5:
        parameters["binary_data"] = dice.random() < 0.5
    if dice.random() < 0.3:
        parameters["classification"] = dice.choice((0, 1, 2, 1000, 2**63))
    return {"name": name, "parameters": parameters} if parameters else {"name": name}


def _parameters(dice: random.Random) -> dict[str, Any]:
    names = ("binary_data_output", "timeout", "priority", "sequence_id", "variant", "mine", "triton_x")
    values = (True, 0, 1, 1500, "v", dice.choice(_ODD))
    return {dice.choice(names): dice.choice(values) for _ in range(dice.randrange(3))}


def renumbered(dice: random.Random, body: bytes) -> bytes:
    """The same request with other numbers, mostly as many."""

    def others(found: re.Match[bytes]) -> bytes:
        digits = re.sub(rb"[0-9]", lambda _: b"%d" % dice.randrange(1, 10), found[2])
        return found[1] + dice.choice((digits, digits, digits, b"[]", b"[1, [2]]", b"[1], [2]", b"[1e999]", b"[1, "))

    return re.sub(rb'("data": )(\[[^"{}]*\])', others, body)


def broken_case(dice: random.Random) -> Case:
    """A well-formed request after one to three accidents."""
    body, length = whole_case(dice)
    for _ in range(dice.choice((1, 1, 2, 3))):
        body, length = dice.choice((_cut, _flip, _splice, _retype, _lie))(dice, body, length)
    return body, length


def _cut(dice: random.Random, body: bytes, length: bytes | None) -> Case:
    return body[: dice.randrange(len(body) + 1)], length


def _flip(dice: random.Random, body: bytes, length: bytes | None) -> Case:
    changed = bytearray(body)
    for _ in range(dice.choice((1, 1, 4))):
        if changed:
            changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed), length


def _splice(dice: random.Random, body: bytes, length: bytes | None) -> Case:
    at = dice.randrange(len(body) + 1)
    return body[:at] + dice.choice(_FRAGMENTS) + body[at + dice.randrange(3) :], length


def _retype(dice: random.Random, body: bytes, length: bytes | None) -> Case:
    """One value of the head becomes one of another type; the framing follows it."""
    size = int(length) if length and length.isdigit() else len(body)
    try:
        value = json.loads(body[:size])
    except (ValueError, RecursionError):
        return _flip(dice, body, length)
    places = _places(value)
    if not places:
        return body, length
    holder, key = dice.choice(places)
    if isinstance(holder, dict) and dice.random() < 0.3:
        key = dice.choice(_ODD_NAMES)
    holder[key] = dice.choice(_ODD)
    text = json.dumps(value).encode()
    return text + body[size:], str(len(text)).encode() if length else None


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    for holder, key in list(found):
        found += _places(holder[key])
    return found


def _lie(dice: random.Random, body: bytes, length: bytes | None) -> Case:
    right = int(length) if length and length.isdigit() else len(body)
    odd = (b"", b"-1", b"0", b"x", b"1e3", b"9" * 40, str(len(body)).encode(), str(max(0, right - 1)).encode())
    return body, dice.choice((None, *odd))
