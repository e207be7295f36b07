"""What stands around a request's numbers is read once: the same answers and refusals as if each were read whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import json_heads
from service.api.json_heads import JsonHeads
from service.api.json_tensors import parse_json
from service.errors import OctavoError
from service.protocol.heads import RequestHead


def body_of(data: str = "[1,2]", before: str = "", behind: str = "", datatype: str = "FP32", around: str = "") -> bytes:
    tensor = f'{{{before}"name":"x","shape":[2],"datatype":"{datatype}","data":{data}{behind}}}'
    return f'{{"inputs":[{tensor}]{around}}}'.encode()


def said(head: RequestHead) -> Any:
    """All that a head says beside the numbers."""
    tensors = [tensor[:-1] for tensor in head.inputs]
    return tensors, head.id, head.variant, head.timeout_seconds, head.binary_default, head.outputs, head.priority


def outcome(heads: JsonHeads, body: bytes | memoryview) -> Any:
    try:
        head, request = heads.decode(body, "m")
    except OctavoError as error:
        return type(error), str(error)
    arrays = {name: (array.dtype, array.shape, repr(array.tolist())) for name, array in request.inputs.items()}
    return said(head), arrays, request.datatypes, request.outputs


def whole_reads(heads: JsonHeads, bodies: Iterable[bytes | memoryview], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of the bodies are read as a whole."""
    read: list[bytes | memoryview] = []

    def noting(body: bytes | memoryview) -> Any:
        read.append(body)
        return parse_json(body)

    with monkeypatch.context() as patch:
        patch.setattr(json_heads, "parse_json", noting)
        for body in bodies:
            outcome(heads, body)
    return len(read)


@pytest.mark.parametrize(
    "shaped",
    [
        {},
        {"behind": ',"parameters":{}', "around": ',"parameters":{"timeout":7000000,"priority":1}'},
        {"behind": ' , "mine" : [1, [2]] ', "around": ' , "outputs":[{"name":"y"}] '},
        {"before": '"data_":[9],'},
        {"datatype": "INT64"},
    ],
)
def test_requests_that_differ_in_their_numbers_share_what_was_read(
    shaped: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = JsonHeads()
    bodies = [body_of(data, **shaped) for data in ("[1,2]", "[3,-4]", "[[5],[6]]", " [7 , 8 ] ".strip())]
    assert whole_reads(heads, bodies, monkeypatch) == 1
    first, request = heads.decode(bodies[1], "m")
    assert first is heads.decode(bodies[2], "m")[0]
    assert request.inputs["x"].tolist() == [3, -4]
    for body in bodies:
        assert outcome(heads, body) == outcome(JsonHeads(), body)


@pytest.mark.parametrize(
    "data",
    ["[1]", "[1,2,3]", "[]", "[1,null]", '[1,"2"]', "[1,true]", "[1,2", "1,2]", "[1,2],[3]", "[1,2]]", "[01,2]", "[1,]",
     '[1,2],"data":[3,4]', '[1,2],"shape":[1]', "[NaN,1]", "[1e999,1]", "[1e39,1]", "[1,2]}", "{}", "", "[1,[2]",
     '{"a":1}', "[[1],2]", "[" * 1021 + "1,2" + "]" * 1021, "[" * 1019 + "1,2" + "]" * 1019],
)  # fmt: skip
def test_what_does_not_fit_is_refused_or_answered_as_if_nothing_were_known(data: str) -> None:
    heads = JsonHeads()
    outcome(heads, body_of())
    assert outcome(heads, body_of(data)) == outcome(JsonHeads(), body_of(data))


@pytest.mark.parametrize(
    "body",
    [
        body_of(around=',"id":"1"'),
        body_of(around=',"parameters":{"note":"\\u0064ata"}'),
        body_of(around=',"data":[1]'),
        body_of(around=',"parameters":{"mine":"data"}'),
        body_of("[true,false]", datatype="BOOL"),
        body_of('["a","b"]', datatype="BYTES"),
        body_of("[NaN,1]"),
        body_of(around=',"parameters":{"mine":"' + "m" * 3000 + '"}'),
        body_of("[1," + " " * 70_000 + "2]"),
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]},'
        b'{"name":"y","shape":[1],"datatype":"FP32","data":[1]}]}',
    ],
)
def test_of_other_requests_nothing_is_kept(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = JsonHeads()
    assert whole_reads(heads, [body, body], monkeypatch) == 2
    assert not heads._seen


def test_the_text_may_come_as_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = JsonHeads()
    assert whole_reads(heads, [memoryview(body_of()), memoryview(body_of("[3,4]"))], monkeypatch) == 1


def test_requests_that_differ_behind_their_numbers_are_known_beside_one_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = JsonHeads()
    two = [body_of(), body_of(around=',"outputs":[{"name":"y"}]')]
    assert whole_reads(heads, two * 3, monkeypatch) == 2
    assert [outcome(heads, body) for body in two] == [outcome(JsonHeads(), body) for body in two]


def test_what_ever_changes_behind_the_numbers_is_not_noted_without_end() -> None:
    heads = JsonHeads()
    for number in range(1, 20):
        outcome(heads, body_of(around=f',"parameters":{{"timeout":{number}}}'))
    assert [len(known) for known in heads._seen.values()] == [4]


def test_ever_new_texts_do_not_pile_up() -> None:
    heads = JsonHeads()
    for number in range(2000):
        outcome(heads, body_of(around=f',"parameters":{{"timeout":{number + 1}}}', before=f'"mine":{number},'))
    assert len(heads._seen) <= 512


PIECES = st.sampled_from(
    [
        "[1,2]",
        "[3,4]",
        '"data":',
        '"data"',
        ",",
        "{",
        "}",
        "[",
        "]",
        '"shape":[1],',
        '"name":"y",',
        " ",
        "\\",
        '"',
        "0",
        "\x00",
    ]
)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3), PIECES), max_size=4), st.lists(PIECES, max_size=3))
def test_no_text_means_something_else_because_another_was_read_before(
    accidents: list[tuple[int, int, str]], more: list[str]
) -> None:
    heads = JsonHeads()
    seen = body_of(around=',"parameters":{"timeout":9}')
    for body in (seen, body_of("".join(more) or "[5,6]", around=',"parameters":{"timeout":9}')):
        outcome(heads, body)
        broken = body
        for at, cut, piece in accidents:
            broken = broken[:at] + piece.encode() + broken[at + cut :]
        assert outcome(heads, broken) == outcome(JsonHeads(), broken)
        # Whatever the broken one left behind.
        assert outcome(heads, seen) == outcome(JsonHeads(), seen)
