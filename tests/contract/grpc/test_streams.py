"""ModelStreamInfer: answers as they are ready, errors that end nothing, and places freed by callers that leave."""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from service.rpc import server
from service.rpc.stream import Streams
from tests.contract.grpc.serving import GrpcServing, outcomes, running
from tests.contract.grpc.tensors import ONES, Call, fake_row, one_input
from tests.contract.oip.serving import LIMITS
from tests.waiting import wait_until


class StreamClient:
    """A client of one open stream; `answers` gets what comes, in order."""

    def __init__(self, address: str) -> None:
        self.client = triton.InferenceServerClient(address)
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def send(self, identity: str, array: Any = ONES, model: str = "linear", **more: Any) -> None:
        self.client.async_stream_infer(model, [one_input(array)], request_id=identity, **more)

    def next(self) -> Any:
        result, error = self.answers.get(timeout=30)
        if error is not None:
            raise error
        return result


@pytest.fixture(name="stream")
def _stream(serving: GrpcServing) -> Iterator[StreamClient]:
    opened = StreamClient(serving.grpc_address)
    yield opened
    opened.client.stop_stream()
    opened.client.close()


def test_a_request_is_traced_whether_it_comes_in_a_stream_or_alone(serving: GrpcServing, stream: StreamClient) -> None:
    on = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"}
    stream.client.update_trace_settings("linear", on)
    try:
        written = len(serving.traces())
        stream.client.infer("linear", [one_input()], request_id="alone")
        for identity in ("streamed", "too many"):
            stream.send(identity)
            stream.next()
        wait_until(lambda: len(serving.traces()) == written + 4)
    finally:
        stream.client.update_trace_settings("linear", dict.fromkeys(on))
    entries = serving.traces()[written:]
    assert [entry["request_id"] for entry in entries[::2]] == ["alone", "streamed"]
    for entry in entries[1::2]:
        times = [stamp["ns"] for stamp in entry["timestamps"]]
        assert len(times) == 7
        assert times == sorted(times)


def queued(serving: GrpcServing) -> int:
    return serving.router.routes("fake").stable.replica.queued_rows


def test_each_request_gets_its_own_answer(stream: StreamClient) -> None:
    for number in range(50):
        stream.send(str(number), ONES * number)
    answers = [stream.next() for _ in range(50)]
    assert {answer.get_response().id: answer.as_numpy("y")[0, 0] for answer in answers} == {
        str(number): 6 * number for number in range(50)
    }
    assert all(answer.get_response().parameters["triton_final_response"].bool_param for answer in answers)


def test_answers_come_when_they_are_ready_whatever_the_order(serving: GrpcServing, stream: StreamClient) -> None:
    serving.fake.block()
    stream.send("slow", fake_row(1), "fake")
    assert serving.fake.running.wait(10)
    stream.send("fast")
    assert stream.next().get_response().id == "fast"
    serving.fake.gate.set()
    assert stream.next().get_response().id == "slow"


def test_a_refused_request_is_told_by_message_and_the_stream_goes_on(stream: StreamClient) -> None:
    stream.send("bad", model="nothing")
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nothing' is not found"):
        stream.next()
    stream.send("worse", np.ones((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match="unexpected shape for input 'x'"):
        stream.next()
    stream.send("good", enable_empty_final_response=True)
    assert stream.next().get_response().id == "good"


def test_an_engine_that_fails_one_request_of_a_stream_answers_the_others(
    serving: GrpcServing, stream: StreamClient
) -> None:
    serving.fake.poison = 7.0
    try:
        stream.send("poisoned", fake_row(7), "fake")
        with pytest.raises(InferenceServerException, match="a row is poisoned"):
            stream.next()
        stream.send("sound", fake_row(8), "fake")
        assert stream.next().as_numpy("y").tolist() == [[8]]
    finally:
        serving.fake.poison = float("nan")


def test_a_response_to_a_refused_request_bears_its_id(serving: GrpcServing) -> None:
    with grpc.insecure_channel(serving.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="nothing", id="r-7")
        (answer,) = stub.ModelStreamInfer(iter([request]), timeout=30)
    assert answer.infer_response.id == "r-7"
    assert answer.error_message


def test_a_full_queue_is_told_to_those_that_do_not_fit(serving: GrpcServing, stream: StreamClient) -> None:
    serving.fake.block()
    stream.send("first", fake_row(1), "fake")
    assert serving.fake.running.wait(10)
    for number in range(LIMITS.max_queue_rows + 3):
        stream.send(str(number), fake_row(number), "fake")
    for _ in range(3):
        with pytest.raises(InferenceServerException, match="Exceeds maximum queue size"):
            stream.next()
    serving.fake.gate.set()
    answered = {stream.next().get_response().id for _ in range(LIMITS.max_queue_rows + 1)}
    assert answered == {"first", *map(str, range(LIMITS.max_queue_rows))}


@pytest.mark.parametrize("leave", ["cancel", "disconnect"])
def test_a_caller_that_leaves_frees_the_places_of_its_stream(serving: GrpcServing, leave: str) -> None:
    left = outcomes("caller_left")
    serving.fake.block()
    leaver = StreamClient(serving.grpc_address)
    leaver.send("runs", fake_row(1), "fake")
    assert serving.fake.running.wait(10)
    for number in (2, 3, 4):
        leaver.send(str(number), fake_row(number), "fake")
    wait_until(lambda: queued(serving) == 3)
    before = len(serving.fake.batches) + 1
    if leave == "cancel":
        leaver.client.stop_stream(cancel_requests=True)
    else:
        leaver.client._channel.close()
    other = triton.InferenceServerClient(serving.grpc_address)
    wait_until(lambda: open_streams(serving) == 0)
    late = Call(other, fake_row(5), "fake")
    wait_until(lambda: queued(serving) == 4)
    serving.fake.gate.set()
    assert late.answer() == [[5]]
    assert serving.fake.batches[before:] == [[5]]
    assert outcomes("caller_left") == left + 4
    other.close()
    leaver.client.close()


def open_streams(serving: GrpcServing) -> int:
    streams: Streams = serving.grpc._streams
    return len(streams._open)


@pytest.mark.parametrize(("limit", "most", "rows"), [("_max_unanswered", 2, 2), ("_max_held_bytes", 1, 1)])
def test_a_stream_reads_no_more_than_it_may_hold_until_answers_are_taken(
    serving: GrpcServing, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, rows: int
) -> None:
    monkeypatch.setattr(serving.grpc._streams, limit, most)
    serving.fake.block()
    stream = StreamClient(serving.grpc_address)
    before = len(serving.fake.batches)
    stream.send("0", fake_row(0), "fake")
    assert serving.fake.running.wait(10)
    for number in range(1, 6):
        stream.send(str(number), fake_row(number), "fake")
    wait_until(lambda: queued(serving) == rows - 1)
    serving.fake.gate.set()
    assert [stream.next().get_response().id for _ in range(6)] == [str(number) for number in range(6)]
    assert max(len(batch) for batch in serving.fake.batches[before:]) <= rows
    stream.client.stop_stream()
    stream.client.close()


def test_a_deadline_of_the_stream_holds_for_what_waits_in_it(serving: GrpcServing, client: Any) -> None:
    serving.fake.block()
    first = Call(client, fake_row(1), "fake")
    assert serving.fake.running.wait(10)
    with grpc.insecure_channel(serving.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="fake", raw_input_contents=[fake_row(22).tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        # The message that the request is late may just make it before the stream itself is.
        with suppress(grpc.RpcError):
            (late,) = stub.ModelStreamInfer(iter([request]), timeout=0.3)
            assert "Request timeout expired" in late.error_message
    wait_until(lambda: open_streams(serving) == 0)
    serving.fake.gate.set()
    assert first.answer() == [[1]]
    assert Call(client, fake_row(3), "fake").answer() == [[3]]
    assert [batch for batch in serving.fake.batches if 22 in batch] == []


def test_the_asynchronous_client(serving: GrpcServing) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(4):
            yield {"model_name": "linear", "inputs": [one_input(ONES * number)], "request_id": str(number)}

    async def main() -> dict[str, float]:
        async with triton_aio.InferenceServerClient(serving.grpc_address) as client:
            return {
                result.get_response().id: float(result.as_numpy("y")[0, 0])
                async for result, error in client.stream_infer(requests())
                if error is None
            }

    assert asyncio.run(main()) == {str(number): 6.0 * number for number in range(4)}


_SILENT_CALLER = """
import sys
import numpy as np
import tritonclient.grpc as triton
client = triton.InferenceServerClient(sys.argv[1])
client.start_stream(lambda result, error: print(result.get_response().id, flush=True))
row = triton.InferInput("x", (1, 1, 2, 2), "FP32")
row.set_data_from_numpy(np.ones((1, 1, 2, 2), np.float32))
client.async_stream_infer("linear", [row], request_id="there")
sys.stdin.read()
"""


def test_a_caller_that_falls_silent_without_closing_is_given_up(
    tmp_path_factory: Any, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PING_SECONDS", 1.0)
    monkeypatch.setattr(server, "_PONG_SECONDS", 1.0)
    with running(tmp_path_factory.mktemp("silent"), migrated) as serving:
        command = [sys.executable, "-c", _SILENT_CALLER, serving.grpc_address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
            try:
                assert caller.stdout is not None
                assert caller.stdout.readline() == b"there\n"
                assert open_streams(serving) == 1
                caller.send_signal(signal.SIGSTOP)
                wait_until(lambda: open_streams(serving) == 0)
            finally:
                caller.kill()


def test_a_stopping_server_answers_what_is_in_its_streams_and_ends_them(tmp_path_factory: Any, migrated: Path) -> None:
    with running(tmp_path_factory.mktemp("stopping"), migrated) as serving:
        stream = StreamClient(serving.grpc_address)
        serving.fake.block()
        stream.send("last", fake_row(1), "fake")
        assert serving.fake.running.wait(10)
        stopping = serving.begin(serving.grpc.stop(30))
        serving.fake.gate.set()
        assert stream.next().get_response().id == "last"
        with pytest.raises(InferenceServerException, match="Server is stopping"):
            stream.next()
        stopping.result(30)
        stream.client.stop_stream()
        stream.client.close()
