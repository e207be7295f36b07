"""b3 and b4 under bodies and framing that hypothesis makes up: whatever comes, the answer is 200 or a refusal."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.oip.kit.rows import row
from tests.contract.oip.kit.target import HEADER, Answer, Target, refused, same

# So many bodies a row: seconds for a server that answers in a millisecond.
EXAMPLES = 150
_REFUSALS = (400, 404, 413, 415, 422, 431, 501)
_settings = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_fields = ("name", "shape", "datatype", "data", "parameters")


def _answered_or_refused(answer: Answer) -> None:
    if answer.status == 200:
        answer.tensors()
    else:
        refused(answer, *_REFUSALS)


@row("b3", "random JSON is answered or refused, never failed on")
def random_json(target: Target) -> None:
    inputs = target.json_inputs(target.arrays())

    @_settings
    @given(st.data())
    def check(data: st.DataObject) -> None:
        body: Any = {"inputs": [dict(tensor) for tensor in inputs]}
        place = data.draw(st.sampled_from(("whole", "inputs", "outputs", "parameters", "id", *_fields)))
        value = data.draw(_json)
        if place in _fields:
            body["inputs"][0][place] = value
        elif place == "whole":
            body = value
        else:
            body[place] = value
        _answered_or_refused(target.infer(json.dumps(body).encode()))

    check()
    assert target.infer({"inputs": inputs}).status == 200


@row("b4", "random framing and bytes are answered or refused, never failed on")
def random_framing(target: Target) -> None:
    target.needs("binary_tensor_data")
    arrays = target.arrays()
    plain = target.answer_of(arrays)
    inputs, tail = target.binary_inputs(arrays)
    text = json.dumps({"inputs": inputs}).encode()
    whole = text + tail
    lengths = st.one_of(
        st.none(), st.integers(-2, len(whole) + 2).map(str), st.text("0123456789abcdef-+. ", min_size=1, max_size=8)
    )

    @_settings
    @given(
        start=st.integers(0, len(whole)),
        removed=st.integers(0, 12),
        inserted=st.binary(max_size=12),
        length=lengths,
        right=st.booleans(),
    )
    def check(start: int, removed: int, inserted: bytes, length: str | None, right: bool) -> None:
        body = whole[:start] + inserted + whole[start + removed :]
        header = str(len(text)) if right else length
        _answered_or_refused(target.infer(body, **({HEADER: header.strip()} if header is not None else {})))

    check()
    assert same(target.infer_binary({"inputs": inputs}, tail).tensors(), plain)


@row("b4", "the answer is the same however the same tensors are written")
def every_spelling(target: Target) -> None:
    target.needs("binary_tensor_data")

    @settings(_settings, max_examples=40)
    @given(
        seed=st.integers(0, 2**16),
        rows=st.integers(1, 3 if target.batched else 1),
        nested=st.booleans(),
        binary_out=st.booleans(),
        indent=st.none() | st.integers(0, 4),
        extra=st.dictionaries(st.sampled_from(("a", "b", "ü")), st.integers(0, 9) | st.text(max_size=4), max_size=2),
    )
    def check(seed: int, rows: int, nested: bool, binary_out: bool, indent: int | None, extra: dict[str, Any]) -> None:
        arrays = target.arrays(rows, seed)
        head = {"parameters": {"binary_data_output": binary_out, **extra}, "inputs": target.json_inputs(arrays, nested)}
        answer = target.infer(json.dumps(head, indent=indent, ensure_ascii=False).encode())
        assert same(answer.tensors(), target.answer_of(arrays))

    check()
