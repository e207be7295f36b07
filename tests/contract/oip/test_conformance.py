"""The conformance kit against a real Octavo process, row by row; and that the kit notices a server that is wrong."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto

from tests.contract.oip.kit import NotOffered, Row, Target, all_rows, judged
from tests.contract.oip.kit.vectors import compare, parsed
from tests.installation import served, upload_digits
from tests.served_models import write_identity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tritonclient.http as triton
    import tritonclient.http.aio as triton_aio

ROWS = all_rows()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """`octavo serve` with the shipped model."""
    with served(tmp_path_factory.mktemp("conformance")) as client:
        upload_digits(client)
        client.headers["Accept-Encoding"] = "identity"
        yield Target(client, "digits")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_octavo_keeps_the_protocol(target: Target, row: Row) -> None:
    # Octavo claims every extension that a row is about, and the shipped model can show every row.
    row.check(target)


OTHERS: dict[str, tuple[dict[str, int], tuple[int | str, ...]]] = {
    "texts": ({"text": TensorProto.STRING}, ("rows", 2)),
    "halves": ({"x": TensorProto.FLOAT16}, ("rows", 3)),
    "mixed": ({"a": TensorProto.INT64, "b": TensorProto.BOOL, "c": TensorProto.DOUBLE}, ("rows", "n")),
    "fixed": ({"x": TensorProto.FLOAT}, (2, 3)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_other_types_and_shapes_keep_it_too(target: Target, name: str, tmp_path: Path) -> None:
    file = write_identity(tmp_path / f"{name}.onnx", *OTHERS[name])
    files = {"file": (file.name, file.read_bytes())}
    assert target.client.post("/models", data={"name": name}, files=files).status_code == 201
    other = Target(target.client, name)
    verdicts = list(judged([row for row in ROWS if row.section != "golden"], other))
    assert [verdict for verdict in verdicts if verdict.word == "FAIL"] == []
    assert sum(verdict.word == "PASS" for verdict in verdicts) > 20
    assert target.client.delete(f"/models/{name}/deployment").status_code == 204
    assert target.client.delete(f"/models/{name}/versions/1").status_code == 204


def test_every_section_of_the_protocol_has_rows_and_no_name_comes_twice() -> None:
    assert {row.section for row in ROWS} == {"b1", "b2", "b3", "b4", "b5", "b6", "b7", "golden"}
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("body", [b"{}", b"", b'{"error": "no"}', b"\xff"])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_server_that_answers_everything_alike_passes_next_to_nothing(status: int, body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    with httpx.Client(transport=transport, base_url="http://wrong.test") as client:
        rows = [row for row in ROWS if row.section != "golden"]
        verdicts = list(judged(rows, Target(client, "digits")))
    assert len(verdicts) == len(rows)
    assert sum(verdict.word == "PASS" for verdict in verdicts) <= 2, verdicts


def test_a_golden_answer_with_another_number_status_or_framing_is_noticed() -> None:
    recorded = parsed(Path(__file__).with_name("vectors").joinpath("flat-json.response").read_bytes())
    compare(recorded, recorded)
    told = recorded.json
    told["outputs"][0]["data"][0] += 1
    changed = recorded.__class__(200, recorded.headers, json.dumps(told).encode())
    for other in (changed, recorded.__class__(400, recorded.headers, recorded.body)):
        with pytest.raises(AssertionError):
            compare(other, recorded)


def test_a_golden_answer_of_another_engine_is_skipped_and_says_so() -> None:
    recorded = parsed(Path(__file__).with_name("vectors").joinpath("flat-json.response").read_bytes())
    told = recorded.json
    told["parameters"]["variant"] = "int8-onnxruntime"
    told["outputs"][0]["data"][0] += 1
    with pytest.raises(NotOffered, match="int8-onnxruntime answers"):
        compare(recorded.__class__(200, recorded.headers, json.dumps(told).encode()), recorded)


def test_a_row_that_the_server_does_not_claim_is_skipped_and_says_so(target: Target) -> None:
    def unclaimed(asked: Target) -> None:
        asked.needs("sequence")

    (verdict,) = judged([Row("b1", "sequences", unclaimed)], target)
    assert (verdict.word, verdict.reason) == ("SKIP", "'sequence' is not among the server's extensions")
    with pytest.raises(NotOffered):
        unclaimed(target)


def rows_of_digits() -> Any:
    wanted = triton.InferInput("input", [2, 1, 8, 8], "FP32")
    wanted.set_data_from_numpy(np.ones((2, 1, 8, 8), np.float32))
    return [wanted]


def test_the_protocols_own_client_loads_and_unloads(target: Target) -> None:
    with triton.InferenceServerClient(target.client.base_url.netloc.decode()) as client:
        before = client.infer("digits", rows_of_digits()).as_numpy("logits")
        client.unload_model("digits", unload_dependents=True)
        assert not client.is_model_ready("digits")
        assert client.is_server_ready()
        (line,) = client.get_model_repository_index()
        assert line == {"name": "digits", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        with pytest.raises(Exception, match="'digits' has no available versions; it is unloaded"):
            client.infer("digits", rows_of_digits())
        client.load_model("digits")
        np.testing.assert_array_equal(client.infer("digits", rows_of_digits()).as_numpy("logits"), before)
        with pytest.raises(Exception, match="load with 'config' is not offered"):
            client.load_model("digits", config="{}")
        with pytest.raises(Exception, match="is not offered: a model is loaded as it is deployed; upload a version"):
            client.load_model("digits", config="{}", files={"file:1/model.onnx": b"x"})


def test_the_asynchronous_client_loads_and_unloads(target: Target) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(target.client.base_url.netloc.decode()) as client:
            await client.unload_model("digits")
            assert not await client.is_model_ready("digits")
            index = await client.get_model_repository_index()
            assert [line["state"] for line in index] == ["UNAVAILABLE"]
            await client.load_model("digits")
            assert (await client.infer("digits", rows_of_digits())).as_numpy("logits").shape == (2, 10)
            assert (await client.get_model_config("digits"))["max_batch_size"] > 0

    asyncio.run(main())
