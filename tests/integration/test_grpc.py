"""gRPC of a real `octavo serve`: the protocol's own client, no gRPC where that is asked for, an end at SIGTERM."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.installation import free_port, running, served, upload_digits
from tests.waiting import wait_until


@pytest.fixture(scope="module", name="client")
def _client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    port = free_port()
    with served(tmp_path_factory.mktemp("served"), OCTAVO_GRPC_PORT=str(port)) as http:
        upload_digits(http)
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            wait_until(lambda: client.is_model_ready("digits"))
            yield client


def digits_input(client: Any, rows: int) -> Any:
    (spec,) = client.get_model_metadata("digits").inputs
    array = np.zeros((rows, *spec.shape[1:]), np.float32)
    wanted = triton.InferInput(spec.name, array.shape, spec.datatype)
    wanted.set_data_from_numpy(array)
    return wanted


def test_an_uploaded_model_answers_over_grpc(client: Any) -> None:
    (output,) = client.get_model_metadata("digits").outputs
    result = client.infer("digits", [digits_input(client, 3)], request_id="one")
    assert result.as_numpy(output.name).shape == (3, 10)
    assert result.get_response().id == "one"
    (statistics,) = client.get_inference_statistics("digits").model_stats
    assert statistics.inference_count >= 3
    assert client.get_model_config("digits").config.max_batch_size >= 3
    assert [line.name for line in client.get_model_repository_index().models] == ["digits"]


def test_many_callers_at_once(client: Any) -> None:
    wanted = [digits_input(client, 1)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.infer("digits", wanted).get_response().model_name, range(200)))
    assert answers == ["digits"] * 200


def test_a_stream(client: Any) -> None:
    answers: list[Any] = []
    wanted = [digits_input(client, 1)]
    client.start_stream(lambda result, error: answers.append(error or result.get_response().id))
    for number in range(20):
        client.async_stream_infer("digits", wanted, request_id=str(number))
    wait_until(lambda: len(answers) == 20)
    client.stop_stream()
    assert sorted(answers, key=int) == [str(number) for number in range(20)]


def test_a_model_is_unloaded_and_loaded(client: Any) -> None:
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    (line,) = client.get_model_repository_index().models
    assert (line.state, line.reason) == ("UNAVAILABLE", "unloaded")
    client.load_model("digits")
    assert client.is_model_ready("digits")
    with pytest.raises(InferenceServerException, match="load with 'config' is not offered"):
        client.load_model("digits", config="{}")
    with pytest.raises(InferenceServerException, match="there is no such model"):
        client.load_model("no such name")


def listened_port(log: Path) -> int:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return next((int(line["port"]) for line in lines if "gRPC" in line["message"]), 0)


def test_port_0_takes_a_free_one_and_the_log_names_it(tmp_path: Path) -> None:
    with served(tmp_path, OCTAVO_GRPC_PORT="0"):
        client = triton.InferenceServerClient(f"127.0.0.1:{listened_port(tmp_path / 'serve.log')}")
        assert client.is_server_ready()
        client.close()


def test_without_a_port_there_is_no_grpc_and_its_library_is_not_loaded(tmp_path: Path) -> None:
    with running("serve", tmp_path, OCTAVO_PORT=str(free_port()), OCTAVO_GRPC_PORT="") as process:
        wait_until(lambda: "Uvicorn running" in (tmp_path / "serve.log").read_text())
        assert listened_port(tmp_path / "serve.log") == 0
        assert "cygrpc" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_sigterm_ends_a_server_that_has_open_streams_and_idle_clients(tmp_path: Path) -> None:
    port = free_port()
    ends: list[Any] = []
    with running("serve", tmp_path, OCTAVO_PORT=str(free_port()), OCTAVO_GRPC_PORT=str(port)) as process:
        wait_until(lambda: "Uvicorn running" in (tmp_path / "serve.log").read_text())
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.is_server_live()
            client.start_stream(lambda result, error: ends.append(error))
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
            wait_until(lambda: ends)
            assert "Server is stopping" in str(ends[0])
            with pytest.raises(InferenceServerException):
                client.is_server_live()
            client.stop_stream()
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_an_ipv6_address(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this host has no IPv6")
    port = free_port()
    settings = {"OCTAVO_HOST": "::1", "OCTAVO_PORT": str(free_port()), "OCTAVO_GRPC_PORT": str(port)}
    with running("serve", tmp_path, **settings):
        wait_until(lambda: "Uvicorn running" in (tmp_path / "serve.log").read_text())
        with triton.InferenceServerClient(f"[::1]:{port}") as client:
            assert client.is_server_live()
