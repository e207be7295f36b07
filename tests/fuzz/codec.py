"""Throws bodies at the inference codec: `python -m tests.fuzz.codec --cases 1000000`. Anything but a refusal is a find.

Each body is decoded as the server does it, JSON also by a server that knows no other; what decodes is encoded as its
own answer, which must be framed as it says and hold the request's tensors.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from service.api.error_responses import error_body, status_of
from service.api.infer_request import HeadReader, decode_raw, decode_request, header_length, raw_head
from service.api.infer_response import encode_response
from service.api.json_heads import JsonHeads
from service.domain.inference import Array, InferRequest, InferResult
from service.domain.tensor import NUMPY_TYPES, TensorSpec
from service.errors import InvalidInput, OctavoError, Unsupported
from service.protocol.heads import NO_DATA, RequestHead, TensorHead
from service.protocol.tensor_codec import array_from_binary
from service.router.route import Route
from tests.fuzz.cases import TYPES, broken_case, renumbered, whole_case

ROUTE = Route("stable", "fuzzed", 1, "fp32-onnxruntime", ("cat", "dog"))
# A raw body is for a model of one input, of any type.
_RAW_SPECS = tuple((TensorSpec("x", kind, (-1, -1)),) for kind in TYPES)
_MAX_MESSAGE = 2000
_MAX_SECONDS = 10.0
_MAX_BYTES = 4 * 1024**3


class Heads(NamedTuple):
    """What a server remembers from one request to the next."""

    binary: HeadReader
    json: JsonHeads


def fresh_heads() -> Heads:
    return Heads(HeadReader(), JsonHeads())


def outcome_of(body: bytes, length: bytes | None, heads: Heads, dice: random.Random) -> str:
    """What became of a request. Raises whatever is no answer and no refusal as refusals should be."""
    try:
        head, request = _decode(heads, body, length, dice)
        names = request.inputs if head.outputs is None else [output.name for output in head.outputs]
        if not request.inputs.keys() >= set(names) or not all(map(_is_whole, names)):
            return "answered"
        _check_answer(head, {name: request.inputs[name] for name in names}, head.datatypes)
    except (InvalidInput, Unsupported) as error:
        message = json.loads(error_body(str(error), error.code))["error"]
        assert 0 < len(message) < _MAX_MESSAGE, f"a message of {len(message)} characters"
        return f"{status_of(error)} {error.code}"
    return "answered"


def _is_whole(name: str) -> bool:
    """A model's outputs are named in UTF-8, which has no half surrogate pairs; a request that names such is refused."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _decode(heads: Heads, body: bytes, length: bytes | None, dice: random.Random) -> tuple[RequestHead, InferRequest]:
    size = header_length(length, len(body))
    if size is None:
        known, fresh = _decoded_json(heads.json, body), _decoded_json(JsonHeads(), body)
        assert _told(known) == _told(fresh), "a request is another one where one like it came before"
        if isinstance(known, OctavoError):
            raise known
        return known
    if size:
        head = heads.binary.read(body[:size])
        return head, decode_request(head, body, size, "fuzzed")
    head = raw_head(dice.choice(_RAW_SPECS), len(body), "fuzzed", batched=dice.random() < 0.5)
    return head, decode_raw(head, body, "fuzzed")


def _decoded_json(heads: JsonHeads, body: bytes) -> tuple[RequestHead, InferRequest] | OctavoError:
    try:
        return heads.decode(body, "fuzzed")
    except OctavoError as error:
        return error


def _told(decoded: tuple[RequestHead, InferRequest] | OctavoError) -> Any:
    if isinstance(decoded, OctavoError):
        return type(decoded), str(decoded)
    head, request = decoded
    arrays = {name: _content(array) for name, array in request.inputs.items()}
    return arrays, request._replace(inputs={}, admitted=None), head.id, head.outputs, head.binary_default


def _check_answer(head: RequestHead, outputs: dict[str, Array], datatypes: Mapping[str, str]) -> None:
    """The inputs come back as outputs."""
    encoded = encode_response(ROUTE, datatypes, head, InferResult(outputs, "fp32-onnxruntime", 1, "stable", 1, 1))
    whole = b"".join(bytes(part) for part in encoded.parts)
    assert len(whole) == encoded.length, "the answer has another length than it says"
    at = len(whole) if encoded.header_length is None else encoded.header_length
    for output in json.loads(whole[:at])["outputs"]:
        if "data" in output:
            assert len(output["data"]) == np.prod(output["shape"]), (
                "an output has more or fewer elements than its shape"
            )
            continue
        size = output["parameters"]["binary_data_size"]
        name, kind = output["name"], output["datatype"]
        shape = tuple(output["shape"])
        tensor = TensorHead(name, kind, NUMPY_TYPES[kind], shape, int(np.prod(shape)), size, NO_DATA)
        back = array_from_binary(tensor, whole, at)
        # Where the type is another, the output is a list of classes.
        assert kind != datatypes[name] or _content(back) == _content(outputs[name]), "an output is not as it was"
        at += size
    assert at == len(whole), "the answer has bytes that no output owns"


def _content(array: Array) -> Any:
    """Flat: nested lists of an array without elements may still be billions of lists."""
    return (array.shape, array.reshape(-1).tolist() if array.dtype.kind == "O" else array.tobytes())


def _print(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _time_limit() -> Iterator[None]:
    """A body of some hundred bytes that takes seconds is a find too. For the main thread alone."""
    signal.setitimer(signal.ITIMER_REAL, _MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"over {_MAX_SECONDS:g} s")


def run(cases: int, seed: int, report: Callable[[str], None] = _print) -> int:
    """How many cases were neither answered nor refused as they should be; each is reported with its bytes."""
    signal.signal(signal.SIGALRM, _too_long)
    dice, heads = random.Random(seed), fresh_heads()
    outcomes: Counter[str] = Counter()
    began, finds = time.monotonic(), 0
    body, length = b"", None
    for number in range(1, cases + 1):
        if number % 2 == 0 and length is None:
            body = renumbered(dice, body)
        else:
            body, length = whole_case(dice) if dice.random() < 0.4 else broken_case(dice)
        try:
            with _time_limit():
                outcomes[outcome_of(body, length, heads, dice)] += 1
        except Exception as error:  # noqa: BLE001 (this is what is looked for)
            finds += 1
            report(f"case {number} of seed {seed}: {type(error).__name__}: {error}\n  {length!r} {body!r}")
        if number % 100_000 == 0:
            report(f"{number} cases, {finds} finds, {time.monotonic() - began:.0f} s")
    report(f"{cases} cases of seed {seed}: {dict(sorted(outcomes.items()))}, {finds} finds")
    return finds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.codec", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # A body that takes gigabytes is a find as well, and must not take them from the host.
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    return 1 if run(arguments.cases, arguments.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
