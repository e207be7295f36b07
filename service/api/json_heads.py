"""JSON requests that differ in their numbers only: the text around these is read once.

A client sends tensor after tensor of one name, type and shape, so of a small request most is known before it comes.
"""

from __future__ import annotations

import re
from dataclasses import replace

import simdjson

from service.api.infer_request import decode_request
from service.api.json_tensors import array_from_numbers, is_numeric, parse_json
from service.api.tensor_space import TensorSpace
from service.domain.inference import InferRequest
from service.errors import InvalidTensor
from service.protocol.heads import NO_DATA, RequestHead, read_head, request_of

# Of longer requests the numbers take nearly all the time.
_MAX_BYTES = 64 * 1024
_MAX_AROUND = 2048
_MAX_SEEN = 512
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
        self._seen: dict[bytes, tuple[bytes, RequestHead]] = {}

    def decode(
        self, body: bytes | memoryview, model: str, space: TensorSpace | None = None
    ) -> tuple[RequestHead, InferRequest]:
        """Head and tensors of a body that is JSON as a whole. Raises InvalidInput, InvalidTensor or Unsupported."""
        text = bytes(body) if len(body) <= _MAX_BYTES else b""
        start = text.find(b"[", text.find(_KEY))
        known = self._seen.get(text[:start])
        if known is not None and text.endswith(known[0]):
            behind, head = known
            (tensor,) = head.inputs
            try:
                array = array_from_numbers(tensor, text[start : len(text) - len(behind)], space)
            except (InvalidTensor, ValueError, RuntimeError):
                # Told below, of the whole request.
                pass
            else:
                return head, request_of(head, {tensor.name: array})
        head = read_head(parse_json(body))
        request = decode_request(head, body, len(body), model, space)
        self._note(text, start, head)
        return head, request

    def _note(self, text: bytes, start: int, head: RequestHead) -> None:
        """Remembers the head of `text`, which was decoded, where its numbers are sure to begin at `start`."""
        tensor, *others = head.inputs
        # An id is of one request. A list was read from a text with NaN or NUL, which simdjson leaves to others.
        if not text or others or head.id is not None or not is_numeric(tensor):
            return
        if not isinstance(tensor.data, simdjson.Array):
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
        self._seen[before] = behind, replace(head, inputs=(tensor._replace(data=NO_DATA),))
