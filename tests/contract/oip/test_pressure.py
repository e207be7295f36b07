"""Full queues, callers that leave, failing batches, deadlines, and engines swapped under load."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest

from service.api import infer_protocol
from service.api.direct_cycle import DirectCycle
from service.domain.tensor import NUMPY_TYPES
from service.metrics import REGISTRY
from tests.contract.oip.serving import KINDS, LIMITS, Serving, error_of, post, running, tensor, wanted_linear
from tests.served_models import STABLE
from tests.waiting import wait_until


@pytest.fixture(name="pool")
def _pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(LIMITS.max_queue_rows + 4) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _calm(serving: Serving) -> Iterator[None]:
    yield
    serving.fake.gate.set()
    serving.fake.poison = float("nan")
    wait_until(lambda: queued(serving) == 0)


def fake_row(value: float, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [value, 0]}], **more}


def queued(serving: Serving) -> int:
    return serving.router.routes("fake").stable.replica.queued_rows


def block(serving: Serving, pool: ThreadPoolExecutor) -> Future[httpx.Response]:
    """A request that holds the engine until the gate opens."""
    serving.fake.block()
    first = pool.submit(post, serving, fake_row(0), "fake")
    assert serving.fake.running.wait(10)
    return first


def answer(response: httpx.Response) -> float:
    assert response.status_code == 200, response.text
    return float(response.json()["outputs"][0]["data"][0])


def test_a_full_queue_answers_429_and_when_to_come_back(serving: Serving, pool: ThreadPoolExecutor) -> None:
    first = block(serving, pool)
    waiting = [pool.submit(post, serving, fake_row(value), "fake") for value in range(1, LIMITS.max_queue_rows + 1)]
    wait_until(lambda: queued(serving) == LIMITS.max_queue_rows)
    labels = {"model": "fake", "version": "1", "variant": STABLE, "route": "stable"}
    before = REGISTRY.get_sample_value("octavo_requests_total", {**labels, "outcome": "queue_full"}) or 0
    refused = post(serving, fake_row(9), "fake")
    assert "Exceeds maximum queue size: 12 of 12 rows wait" in error_of(refused, 429)
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("queue_full", "1")
    assert REGISTRY.get_sample_value("octavo_requests_total", {**labels, "outcome": "queue_full"}) == before + 1
    assert REGISTRY.get_sample_value("octavo_queued_rows", labels) == 12
    serving.fake.gate.set()
    assert [answer(one.result()) for one in (first, *waiting)] == list(range(13))
    assert answer(post(serving, fake_row(5), "fake")) == 5


def test_a_caller_that_leaves_is_counted_but_not_run_and_the_others_are(
    serving: Serving, pool: ThreadPoolExecutor
) -> None:
    labels = {"model": "fake", "version": "1", "variant": STABLE, "route": "stable", "outcome": "caller_left"}
    left = REGISTRY.get_sample_value("octavo_requests_total", labels) or 0
    first = block(serving, pool)
    body = json.dumps(fake_row(7)).encode()
    leaving = socket.create_connection(serving.endpoint_address)
    leaving.sendall(b"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    wait_until(lambda: queued(serving) == 1)
    stays = pool.submit(post, serving, fake_row(8), "fake")
    wait_until(lambda: queued(serving) == 2)
    leaving.close()
    route = serving.router.routes("fake").stable.replica
    wait_until(lambda: any(pending.answer.cancelled() for pending in list(route._batcher._waiting)))
    serving.fake.gate.set()
    assert [answer(one.result()) for one in (first, stays)] == [0, 8]
    assert serving.fake.batches[-1] == [8]
    assert REGISTRY.get_sample_value("octavo_requests_total", labels) == left + 1


def test_a_caller_that_leaves_in_the_middle_of_its_body_costs_nothing(serving: Serving) -> None:
    for length, sent in ((500, b"{"), (500_000, bytes(100)), (500_000, bytes(300_000))):
        with socket.create_connection(serving.endpoint_address) as leaving:
            lines = f"POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
            leaving.sendall(lines.encode() + sent)
    assert answer(post(serving, fake_row(1), "fake")) == 1


def test_one_bad_row_fails_its_own_request_only(serving: Serving, pool: ThreadPoolExecutor) -> None:
    serving.fake.poison = 2
    first = block(serving, pool)
    others = [pool.submit(post, serving, fake_row(value), "fake") for value in (1, 2, 3)]
    wait_until(lambda: queued(serving) == 3)
    serving.fake.gate.set()
    first.result()
    assert sorted(one.result().status_code for one in others) == [200, 200, 500]
    assert "a row is poisoned" in error_of(others[1].result(), 500)
    assert answer(others[0].result()) == 1


def test_a_timeout_is_answered_while_the_engine_is_busy(serving: Serving, pool: ThreadPoolExecutor) -> None:
    first = block(serving, pool)
    late = post(serving, fake_row(1, parameters={"timeout": 300_000}), "fake")
    assert "Request timeout expired after 300000 microseconds" in error_of(late, 503)
    serving.fake.gate.set()
    assert answer(first.result()) == 0


def test_five_swaps_under_load_fail_no_request(serving: Serving, pool: ThreadPoolExecutor) -> None:
    """Version 2 doubles the answers of version 1; every answer is one of the two, and both are seen."""
    stop = Event()

    def ask() -> set[tuple[int, float]]:
        seen: set[tuple[int, float]] = set()
        with httpx.Client() as client:
            while not stop.is_set():
                got = client.post(f"{serving.url}/v2/models/linear/infer", json={"inputs": [tensor()]})
                assert got.status_code == 200, got.text
                body = got.json()
                seen.add((int(body["model_version"]), body["outputs"][0]["data"][0]))
        return seen

    clients = [pool.submit(ask) for _ in range(8)]
    for change in range(5):
        time_of_load = time.monotonic() + 0.2
        serving.call(serving.router.deploy(wanted_linear(version=2 - change % 2, revision=change + 2)))
        wait_until(lambda: time.monotonic() > time_of_load)  # noqa: B023 (asked within this round)
    serving.call(serving.router.deploy(wanted_linear()))
    stop.set()
    seen = set().union(*(client.result() for client in clients))
    assert seen == {(1, 6.0), (2, 12.0)}


def large_request(row: Any) -> tuple[bytes, int]:
    """A body of nearly a megabyte for `types`, and the length of its head."""
    inputs, blobs = [], []
    for kind in KINDS:
        array = row if kind == "FP32" else np.zeros(row.shape, "<i4" if kind == "BYTES" else NUMPY_TYPES[kind])
        blobs.append(array.tobytes())
        size = {"binary_data_size": array.nbytes}
        inputs.append({"name": kind.lower(), "shape": row.shape, "datatype": kind, "parameters": size})
    outputs = [{"name": "fp32_out", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    return head + b"".join(blobs), len(head)


def test_large_tensors_come_back_whole_and_the_connection_goes_on(serving: Serving) -> None:
    """Longer than any socket buffer, so both bodies travel in many pieces."""
    for seed in range(3):
        row = np.random.default_rng(seed).random((1, 20_000)).astype(np.float32)
        body, length = large_request(row)
        got = post(serving, body, "types", **{"Inference-Header-Content-Length": str(length)})
        assert got.status_code == 200, got.text
        assert got.content[int(got.headers["inference-header-content-length"]) :] == row.tobytes()
        assert post(serving, {"inputs": [tensor()]}).json()["outputs"][0]["data"] == [6, 12, 18]


def test_a_request_right_behind_a_large_one_is_answered_after_it(serving: Serving) -> None:
    body, length = large_request(np.zeros((1, 20_000), np.float32))
    small = json.dumps({"inputs": [tensor()]}).encode()
    first = f"POST /v2/models/types/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {length}\r\n"
    second = "POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    with socket.create_connection(serving.endpoint_address) as connection:
        connection.settimeout(10)
        for lines, content in ((first, body), (second, small)):
            connection.sendall(f"{lines}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.endswith(b'"data":[6.0,12.0,18.0]}]}')


def test_plain_requests_take_the_direct_way_and_special_ones_the_usual(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    class Counted(DirectCycle):
        def set(self) -> None:
            taken.append("left")

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            taken.append("direct")

    monkeypatch.setattr(infer_protocol, "DirectCycle", Counted)
    direct = issubclass(serving.server.config.http_protocol_class, infer_protocol.InferProtocol)
    body = {"inputs": [tensor()]}
    assert post(serving, body).status_code == 200
    assert taken == ["direct"] * direct
    for headers in ({"Accept-Encoding": "gzip"}, {"Content-Encoding": "identity"}, {"Expect": "100-continue"}):
        assert post(serving, body, **headers).status_code == 200
    assert post(serving, iter([json.dumps(body).encode()])).status_code == 200
    assert taken == ["direct"] * direct


def test_readiness_follows_the_first_pass_and_the_stop(tmp_path: Any) -> None:
    for direct in (True, False):
        folder = tmp_path / str(direct)
        folder.mkdir()
        with running(folder, direct) as serving:
            url = f"{serving.url}/v2/health/ready"
            serving.ready = False
            assert "Server not ready" in error_of(serving.client.get(url), 400)
            serving.ready = True
            assert serving.client.get(url).status_code == 200
            serving.call(serving.router.close(5))
            assert "Server is stopping" in error_of(serving.client.get(url), 503)
            assert "Server is stopping" in error_of(post(serving, {"inputs": [tensor()]}), 503)
            assert serving.client.get(f"{serving.url}/v2/health/live").status_code == 200


def test_a_request_in_flight_is_answered_before_the_server_stops(tmp_path: Any, pool: ThreadPoolExecutor) -> None:
    for direct in (True, False):
        folder = tmp_path / str(direct)
        folder.mkdir()
        with running(folder, direct) as serving:
            first = block(serving, pool)
            serving.server.should_exit = True
            wait_until(lambda: not serving.server.servers or not serving.server.servers[0].is_serving())
            serving.fake.gate.set()
            assert answer(first.result()) == 0
            assert first.result().headers["connection"] == "close"
