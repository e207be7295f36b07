"""A few seconds of the codec's fuzzing, and that it would notice."""

from __future__ import annotations

import random

import numpy as np
import pytest

from service.api import json_heads
from tests.fuzz import codec


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_body_gets_anything_but_an_answer_or_a_refusal(seed: int) -> None:
    lines: list[str] = []
    assert codec.run(5000, seed, lines.append) == 0, lines
    assert "'answered'" in lines[-1]


def test_a_crash_in_the_codec_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(json_heads, "read_head", crash)
    lines: list[str] = []
    assert codec.run(200, 1, lines.append) > 0
    assert "KeyError" in lines[0]


def test_an_answer_that_says_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"inputs":[{"name":"x","shape":[2],"datatype":"INT8","data":[1,2]}],"outputs":[{"name":"x"}]}'
    assert codec.outcome_of(body, None, codec.fresh_heads(), random.Random(1)) == "answered"
    monkeypatch.setattr("service.api.infer_response.json_values", lambda *_: [1])
    with pytest.raises(AssertionError, match="more or fewer elements"):
        codec.outcome_of(body, None, codec.fresh_heads(), random.Random(1))


def test_a_body_that_takes_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(json_heads, "read_head", endless)
    monkeypatch.setattr(codec, "_MAX_SECONDS", 0.01)
    lines: list[str] = []
    assert codec.run(10, 1, lines.append) > 0
    assert "TimeoutError" in lines[0]


def test_an_array_of_no_elements_and_billions_of_rows_is_compared_at_once() -> None:
    head = b'{"name":"x","shape":[2147483648,3,0],"datatype":"BYTES","parameters":{"binary_data_size":0}}'
    body = b'{"inputs":[' + head + b'],"outputs":[{"name":"x","parameters":{"binary_data":true}}]}'
    outcome = codec.outcome_of(body, str(len(body)).encode(), codec.fresh_heads(), random.Random(1))
    assert outcome == "answered"


def test_a_request_that_is_read_otherwise_after_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"inputs":[{"name":"x","shape":[2],"datatype":"INT8","data":[1,2]}]}'
    heads = codec.fresh_heads()
    assert codec.outcome_of(body, None, heads, random.Random(1)) == "answered"
    monkeypatch.setattr(json_heads, "array_from_numbers", lambda *_: np.zeros(2, np.int8))
    with pytest.raises(AssertionError, match="is another one where one like it came before"):
        codec.outcome_of(body, None, heads, random.Random(1))
