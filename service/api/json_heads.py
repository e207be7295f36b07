"""JSON requests that differ in their numbers only: the text around these is read once.

A client sends tensor after tensor of one name, type and shape, so of a small request most is known before it comes.
"""

from __future__ import annotations

import re
from dataclasses import replace

import simdjson

from service.api.infer_request import decode_request
from service.api.json_tensors import array_from_numbers, parse_json
from service.api.tensor_space import TensorSpace
from service.domain.inference import Array, InferRequest
from service.errors import InvalidTensor
from service.protocol.heads import NO_DATA, RequestHead, TensorHead, read_head, request_of

# Of longer requests the numbers take nearly all the time.
_MAX_BYTES = 64 * 1024
_MAX_AROUND = 2048
_MAX_SEEN = 512
# Texts behind the numbers that are known for one before them. Of one that ever changes no more are noted.
_MAX_BEHIND = 4
# simdjson reads 1024 levels, those around the numbers among them.
_MAX_BRACKETS = 1000
_KEY = b'"data"'
# From the bracket that begins an array of numbers up to what can be no part of it.
_NUMBERS = re.compile(rb"[-+.0-9eE,\s\[\]]*")


class JsonHeads:
    """Decodes JSON requests, and remembers heads of such with one input, by what stands before its numbers.

    In JSON an array may be put in another's place whatever stands around it. So where the text before and behind is one
    that was read, and what is between is an array of numbers that fits, the request is that head with these numbers.
    Whatever does not fit is decoded, and refused, as if nothing were known.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, dict[bytes, RequestHead]] = {}

    def decode(
        self, body: bytes | memoryview, model: str, space: TensorSpace | None = None
    ) -> tuple[RequestHead, InferRequest]:
        """Head and tensors of a body that is JSON as a whole. Raises InvalidInput, InvalidTensor or Unsupported."""
        text = bytes(body) if len(body) <= _MAX_BYTES else b""
        start = text.find(b"[", text.find(_KEY))
        known = self._seen.get(text[:start], {})
        for behind, head in known.items():
            if text.endswith(behind):
                numbers = text[start : len(text) - len(behind)]
                array = _array(head.inputs[0], numbers, space)
                if array is not None:
                    return head, request_of(head, {head.inputs[0].name: array})
        head = read_head(parse_json(body))
        request = decode_request(head, body, len(body), model, space)
        if text and len(known) < _MAX_BEHIND:
            self._note(text, start, head)
        return head, request

    def _note(self, text: bytes, start: int, head: RequestHead) -> None:
        """Remembers the head of `text`, which was decoded, where its numbers are sure to begin at `start`."""
        tensor, *others = head.inputs
        # An id is of one request. A list is of strings, of truth values, or of a text with NaN or NUL about.
        if others or head.id is not None or not isinstance(tensor.data, simdjson.Array):
            return
        numbers = _NUMBERS.match(text, start)
        assert numbers is not None
        end = text.rfind(b"]", start, numbers.end()) + 1
        before, behind = text[:start], text[end:]
        around = before + behind
        # The one such word is then the key of the one input's numbers: no string holds it, nor another way to write it.
        if len(around) > _MAX_AROUND or around.count(_KEY) != 1 or b"\\" in around:
            return
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.setdefault(before, {})[behind] = replace(head, inputs=(tensor._replace(data=NO_DATA),))


def _array(head: TensorHead, text: bytes, space: TensorSpace | None) -> Array | None:
    """The input's array where `text` is one that fits; none is told of here, but of the whole request."""
    if text.count(b"[") > _MAX_BRACKETS:
        return None
    try:
        return array_from_numbers(head, text, space)
    except (InvalidTensor, ValueError, RuntimeError):
        return None
