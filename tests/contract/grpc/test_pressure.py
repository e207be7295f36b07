"""Deadlines, callers that leave, failing engines and a stopping server, over gRPC."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from service.rpc.request import HeadReader
from tests.contract.grpc.serving import GrpcServing, outcomes, running
from tests.contract.grpc.tensors import ANSWER, Call, fake_row, one_input
from tests.contract.oip.serving import LIMITS
from tests.waiting import wait_until


def queued(serving: GrpcServing) -> int:
    return serving.router.routes("fake").stable.replica.queued_rows


def occupied(serving: GrpcServing, client: Any) -> Call:
    """A request inside the engine, which stays there until the gate opens."""
    serving.fake.block()
    call = Call(client, fake_row(1), "fake")
    assert serving.fake.running.wait(10)
    return call


def test_a_cancelled_call_frees_its_place_and_is_counted_but_not_run(serving: GrpcServing, client: Any) -> None:
    left = outcomes("caller_left")
    first = occupied(serving, client)
    leaving = Call(client, fake_row(22), "fake")
    wait_until(lambda: queued(serving) == 1)
    leaving.cancel()
    staying = Call(client, fake_row(3), "fake")
    answers = wait_until(lambda: answers_waiting(serving))
    assert answers
    serving.fake.gate.set()
    assert first.answer() == [[1]]
    assert staying.answer() == [[3]]
    assert [batch for batch in serving.fake.batches if 22 in batch] == []
    assert outcomes("caller_left") == left + 1


def answers_waiting(serving: GrpcServing) -> bool:
    """Whether of the requests in the queue one was given up and one was not."""
    waiting = list(serving.router.routes("fake").stable.replica._batcher._waiting)
    return [pending.answer.cancelled() for pending in waiting] == [True, False]


def test_the_callers_deadline_is_the_requests_timeout(serving: GrpcServing, client: Any) -> None:
    first = occupied(serving, client)
    before = len(serving.fake.batches)
    with pytest.raises(InferenceServerException) as late:
        client.infer("fake", [one_input(fake_row(4))], client_timeout=0.2)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    serving.fake.gate.set()
    first.answer()
    client.infer("fake", [one_input(fake_row(5))])
    assert [4] not in serving.fake.batches[before:]


@pytest.mark.parametrize("deadline", [None, 30.0])
def test_a_timeout_among_the_parameters_holds_though_the_caller_would_wait_longer(
    serving: GrpcServing, client: Any, deadline: float | None
) -> None:
    first = occupied(serving, client)
    failed = outcomes("deadline_exceeded")
    with pytest.raises(InferenceServerException, match="Request timeout expired after 100000 microseconds") as late:
        client.infer("fake", [one_input(fake_row(6))], timeout=100_000, client_timeout=deadline)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert outcomes("deadline_exceeded") == failed + 1
    serving.fake.gate.set()
    first.answer()


def test_a_full_queue_is_unavailable_and_says_when_to_come_back(serving: GrpcServing, client: Any) -> None:
    calls = [occupied(serving, client)]
    for number in range(LIMITS.max_queue_rows):
        calls.append(Call(client, fake_row(number), "fake"))
    wait_until(lambda: queued(serving) == LIMITS.max_queue_rows)
    with grpc.insecure_channel(serving.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="fake", raw_input_contents=[b"\0" * 8])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        with pytest.raises(grpc.RpcError) as full:
            stub.ModelInfer(request, timeout=30)
    assert full.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Exceeds maximum queue size" in str(full.value.details())
    metadata: Any = full.value.trailing_metadata()
    trailer = dict(metadata)
    assert (trailer["error-code"], trailer["grpc-retry-pushback-ms"]) == ("queue_full", "1000")
    serving.fake.gate.set()
    for call in calls:
        call.answer()


def test_a_failing_engine_is_an_internal_error_counted_under_its_route(serving: GrpcServing, client: Any) -> None:
    failed = outcomes("engine_failed")
    serving.fake.poison = 9.0
    try:
        with pytest.raises(InferenceServerException, match="a row is poisoned") as refused:
            client.infer("fake", [one_input(fake_row(9))])
    finally:
        serving.fake.poison = float("nan")
    assert refused.value.status() == "StatusCode.INTERNAL"
    assert outcomes("engine_failed") == failed + 1


def test_a_crash_answers_that_the_log_says_why(
    serving: GrpcServing, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(HeadReader, "read", crash)
        with pytest.raises(InferenceServerException, match="its log says why") as crashed:
            client.infer("fake", [one_input(fake_row(1))])
    assert crashed.value.status() == "StatusCode.INTERNAL"
    assert any(record.exc_info for record in caplog.records)
    assert client.infer("fake", [one_input(fake_row(1))]).as_numpy("y").tolist() == [[1]]


def is_refused(serving: GrpcServing) -> bool:
    """Whether a caller with a connection of its own is turned away."""
    with triton.InferenceServerClient(serving.grpc_address) as newcomer:
        try:
            newcomer.infer("linear", [one_input()], client_timeout=5)
        except InferenceServerException:
            return True
    return False


def test_a_stopping_server_answers_what_is_in_flight_and_refuses_newcomers(
    tmp_path_factory: Any, migrated: Path
) -> None:
    with running(tmp_path_factory.mktemp("stopping"), migrated) as serving:
        client = triton.InferenceServerClient(serving.grpc_address)
        last = occupied(serving, client)
        stopping = serving.begin(serving.grpc.stop(30))
        wait_until(lambda: is_refused(serving))
        serving.fake.gate.set()
        assert last.answer() == [[1]]
        stopping.result(30)
        client.close()


def call_until_refused(address: str, answered: Event) -> grpc.StatusCode:
    """The status by which a caller with a connection of its own is refused first; it calls again with each answer."""
    request = service_pb2.ModelInferRequest(model_name="fake", raw_input_contents=[b"\0" * 8])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        try:
            while True:
                infer(request)
                answered.set()
        except grpc.RpcError as refused:
            return refused.code()


def test_callers_that_call_on_while_the_server_stops_are_told_that_it_is_unavailable(
    tmp_path_factory: Any, migrated: Path
) -> None:
    with running(tmp_path_factory.mktemp("stopping"), migrated) as serving, ThreadPoolExecutor(6) as pool:
        events = [Event() for _ in range(6)]
        callers = [pool.submit(call_until_refused, serving.grpc_address, event) for event in events]
        assert all(event.wait(30) for event in events)
        serving.begin(serving.grpc.stop(30)).result(30)
        assert {caller.result(30) for caller in callers} == {grpc.StatusCode.UNAVAILABLE}


def test_requests_of_many_callers_share_batches(serving: GrpcServing, client: Any) -> None:
    first = occupied(serving, client)
    calls = [Call(client, fake_row(number), "fake") for number in range(4)]
    wait_until(lambda: queued(serving) == 4)
    serving.fake.gate.set()
    assert [call.answer() for call in calls] == [[[n]] for n in range(4)]
    assert sorted(serving.fake.batches[-1]) == [0, 1, 2, 3]
    first.answer()
    assert client.infer("linear", [one_input()]).as_numpy("y").tolist() == ANSWER
