"""b3 and b5: inference in JSON, its parameters, and the form of its answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.oip.kit.rows import row
from tests.contract.oip.kit.target import NotOffered, Target, refused, same


@row("b3", "data may be flat or nested, and JSON says what binary says")
def flat_and_nested(target: Target) -> None:
    arrays = target.arrays()
    plain = target.answer_of(arrays)
    for nested in (False, True):
        assert same(target.infer({"inputs": target.json_inputs(arrays, nested)}).tensors(), plain)


@row("b3", "several rows are answered as each alone")
def rows(target: Target) -> None:
    if not target.batched:
        raise NotOffered("the model has no batch axis")
    arrays = target.arrays(3)
    together = target.answer_of(arrays)
    for number in range(3):
        alone = target.answer_of({name: array[number : number + 1] for name, array in arrays.items()})
        assert same(alone, {name: array[number : number + 1] for name, array in together.items()})


@row("b3", "the id comes back, and none comes from none")
def identity(target: Target) -> None:
    inputs = target.json_inputs(target.arrays())
    assert target.infer({"id": "r-1 ü", "inputs": inputs}).json["id"] == "r-1 ü"
    assert "id" not in target.infer({"inputs": inputs}).json
    refused(target.infer({"id": 7, "inputs": inputs}), 400)


@row("b3", "only the outputs that are asked for come back, in that order")
def wanted_outputs(target: Target) -> None:
    inputs = target.json_inputs(target.arrays())
    names = [spec["name"] for spec in target.metadata["outputs"]][::-1]
    answer = target.infer({"inputs": inputs, "outputs": [{"name": name} for name in names]})
    assert [output["name"] for output in answer.json["outputs"]] == names
    one = target.infer({"inputs": inputs, "outputs": [{"name": names[0]}]})
    assert [output["name"] for output in one.json["outputs"]] == names[:1]
    refused(target.infer({"inputs": inputs, "outputs": [{"name": "no-such-output"}]}), 400)


def _broken(target: Target) -> dict[str, tuple[Any, ...]]:
    first, *others = target.json_inputs(target.arrays())
    without_data = {key: value for key, value in first.items() if key != "data"}
    zeros = [0] * len(first["data"])
    other_kind = "INT32" if first["datatype"] != "INT32" else "FP32"
    return {
        "no inputs": ([],),
        "an unknown input": ([{**first, "name": "no-such-input"}, *others],),
        "one input too many": ([first, *others, {**first, "name": "no-such-input"}],),
        "the same input twice": ([first, first, *others],),
        "another datatype": ([{**first, "datatype": other_kind, "data": zeros}, *others], "data-type"),
        "a datatype that is none": ([{**first, "datatype": "FLOAT"}, *others],),
        "a shape of too many axes": ([{**first, "shape": [*first["shape"], 1]}, *others], "unexpected shape"),
        "a negative extent": ([{**first, "shape": [-1, *first["shape"][1:]]}, *others],),
        "fewer values than the shape says": ([{**first, "data": first["data"][:-1]}, *others],),
        "more values than the shape says": ([{**first, "data": [*first["data"], first["data"][0]]}, *others],),
        "no data": ([without_data, *others],),
        "data and a binary size": ([{**first, "parameters": {"binary_data_size": 4}}, *others],),
        "values of another type": ([{**first, "data": [{}] * len(first["data"])}, *others],),
        "no name": ([{key: value for key, value in first.items() if key != "name"}, *others],),
        "nesting without end": ([{**first, "data": _deep(150)}, *others],),
    }


def _deep(levels: int) -> Any:
    return [] if levels == 0 else [_deep(levels - 1)]


@row("b3", "wrong inputs are refused with 400, in the words that users look for")
def wrong_inputs(target: Target) -> None:
    for case, (inputs, *words) in _broken(target).items():
        try:
            message = refused(target.infer({"inputs": inputs}), 400)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
        assert all(word in message for word in words), f"{case}: {message}"


@row("b3", "more rows than the configuration allows are refused, and none too")
def wrong_rows(target: Target) -> None:
    target.needs("model_configuration")
    most = target.get(f"{target.path}/config").json["max_batch_size"]
    if not target.batched or most > 256:
        raise NotOffered("the model has no batch axis, or a very long one")
    message = refused(target.infer({"inputs": target.json_inputs(target.arrays(most + 1))}), 400)
    assert f"inference request batch-size must be <= {most}" in message
    refused(target.infer({"inputs": target.json_inputs(target.arrays(0))}), 400)


@row("b3", "parameters: unknown ones pass, reserved and wrong ones are refused")
def parameters(target: Target) -> None:
    target.needs("parameters")
    inputs = target.json_inputs(target.arrays())

    def ask(**given: Any) -> int:
        return target.infer({"inputs": inputs, "parameters": given}).status

    assert ask(mine="x", number=1, share=0.5, flag=True) == 200
    assert ask(sequence_id=0, priority=0, timeout=0) == 200
    assert ask(timeout=60_000_000) == 200
    assert ask(triton_enable_x=True) == 400
    assert ask(timeout="soon") == 400
    assert ask(priority=-1) == 400
    assert ask(binary_data_output="yes") == 400
    assert ask(sequence_id=5, sequence_start=True) in (400, 501)


@row("b3", "NaN and infinities pass as JSON literals")
def not_a_number(target: Target) -> None:
    if [target.datatype(name) for name in target.arrays()] != ["FP32"]:
        raise NotOffered("the model does not take one FP32 input")
    ((name, array),) = target.arrays().items()
    for value in (np.nan, np.inf, -np.inf):
        array.reshape(-1)[0] = value
        answer = target.infer({"inputs": target.json_inputs({name: array})})
        assert same(answer.tensors(), target.answer_of({name: array})), value


@row("b3", "FP16 and BF16 in JSON are refused, and pass as binary")
def half_precision(target: Target) -> None:
    first, *others = target.json_inputs(target.arrays())
    for kind in ("FP16", "BF16"):
        message = refused(target.infer({"inputs": [{**first, "datatype": kind}, *others]}), 400)
        assert "via JSON is not supported" in message or "data-type" in message, message


@row("b5", "an answer names model and version and holds each output's datatype, shape and data")
def answer_form(target: Target) -> None:
    answer = target.infer({"inputs": target.json_inputs(target.arrays())})
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json
    assert body["model_name"] == target.model
    assert body["model_version"] in target.metadata["versions"]
    specs = {spec["name"]: spec for spec in target.metadata["outputs"]}
    assert {output["name"] for output in body["outputs"]} == set(specs)
    for output in body["outputs"]:
        spec = specs[output["name"]]
        assert output["datatype"] == spec["datatype"]
        fits = zip(spec["shape"], output["shape"], strict=True)
        assert all(want in (-1, got) for want, got in fits), f"{output['shape']} for {spec['shape']}"


@row("b5", "classification: the largest values first, as value:index, no more than there are")
def classification(target: Target) -> None:
    target.needs("classification")
    arrays = target.arrays(2 if target.batched else 1)
    name, values = next(iter(target.answer_of(arrays).items()))
    if values.dtype.kind in "Ob":
        raise NotOffered(f"output {name!r} has no order")
    flat = values.reshape(len(values) if target.batched else 1, -1)
    inputs, tail = target.binary_inputs(arrays)
    for count in (1, 2, 10**6):
        for binary in (False, True):
            wanted = {"name": name, "parameters": {"classification": count, "binary_data": binary}}
            answer = target.infer_binary({"inputs": inputs, "outputs": [wanted]}, tail)
            (output,) = answer.json["outputs"]
            best = min(count, flat.shape[1])
            assert output["datatype"] == "BYTES"
            assert output["shape"] == ([len(flat), best] if target.batched else [best])
            strings = [_text(item) for item in answer.tensors()[name].reshape(-1)]
            indexes = np.array([int(text.split(":")[1]) for text in strings]).reshape(len(flat), best)
            scores = np.array([float(text.split(":")[0]) for text in strings]).reshape(len(flat), best)
            np.testing.assert_allclose(scores, -np.sort(-flat)[:, :best], atol=1e-3, rtol=1e-3)
            np.testing.assert_allclose(np.take_along_axis(flat, indexes, 1), scores, atol=1e-3, rtol=1e-3)


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)
