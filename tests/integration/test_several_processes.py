"""`octavo serve --processes 2`: one address, one sum of metrics, no request lost but those of a killed process."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from service.processes.dealing import Board
from service.processes.place import Place
from tests.installation import children_of, free_port, running, served, upload_digits
from tests.waiting import wait_until

CONNECTIONS = 24
BODY: dict[str, Any] = {"inputs": [{"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}]}


@dataclass(frozen=True)
class Several:
    """A server of two processes, with the digits model."""

    url: str
    grpc_port: int
    data_dir: Path

    def fresh(self, path: str, body: Any = None) -> httpx.Response:
        """A request on a connection of its own, which goes to any of the processes."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            return client.get(path) if body is None else client.post(path, json=body)

    def infer(self) -> int:
        return self.fresh("/v2/models/digits/infer", BODY).status_code

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        families = text_string_to_metric_families(self.fresh("/metrics").text)
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def answered(self) -> float:
        return self.count("octavo_requests_total", model="digits", outcome="ok")

    def inferences(self) -> int:
        (entry,) = self.fresh("/v2/models/digits/stats").json()["model_stats"]
        return int(entry["inference_stats"]["success"]["count"])

    def places(self) -> dict[Path, int]:
        """The processes that serve, by their places."""
        return places_of(launched(self.data_dir / "serve.log"))


def launched(log: Path) -> int:
    """The process that started the others: the parent of any that serves. A test may have killed the first."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    said = [line["message"] for line in lines if "Started server process" in line["message"]]
    stats = [Path(f"/proc/{message.split('[')[1][:-1]}/stat") for message in said]
    return int(next(stat for stat in stats if stat.exists()).read_text().rsplit(")", 1)[1].split()[1])


def places_of(parent: int) -> dict[Path, int]:
    found = {}
    for child in children_of(parent):
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if "--place" in words:
            found[Path(words[words.index("--place") + 1])] = child
    return found


def ports_of(log: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return next((line for line in lines if line["message"] == "several processes serve"), {})


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    data_dir = tmp_path_factory.mktemp("several")
    grpc_port = free_port()
    with served(data_dir, OCTAVO_PROCESSES="2", OCTAVO_GRPC_PORT=str(grpc_port)) as client:
        upload_digits(client)
        server = Several(str(client.base_url), grpc_port, data_dir)
        folder = next(iter(server.places())).parent
        yield server
    assert not folder.exists()
    assert "Traceback" not in (data_dir / "serve.log").read_text()


def test_requests_over_both_protocols_are_counted_as_those_of_one_server(server: Several) -> None:
    before, inferences = server.answered(), server.inferences()
    assert [server.infer() for _ in range(CONNECTIONS)] == [200] * CONNECTIONS
    wanted = triton.InferInput("input", (1, 1, 8, 8), "FP32")
    wanted.set_data_from_numpy(np.zeros((1, 1, 8, 8), np.float32))
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            # Channels of one process share a connection unless told otherwise.
            client = triton.InferenceServerClient(
                f"127.0.0.1:{server.grpc_port}", channel_args=[("grpc.use_local_subchannel_pool", 1)]
            )
            stack.callback(client.close)
            client.infer("digits", [wanted])
    assert server.answered() == before + 2 * CONNECTIONS
    assert server.inferences() == inferences + 2 * CONNECTIONS
    assert server.count("octavo_request_duration_seconds_count", model="digits") == server.answered()
    assert server.count("octavo_engines_ready", model="digits") == 2
    assert server.count("octavo_processes") == 2
    for place in server.places():
        statistics = json.loads(place.with_suffix(".json").read_text())["statistics"]
        assert sum(entry["execution_count"] for entry in statistics) > 0, "a process got no connection"


def test_connections_that_are_kept_are_dealt_evenly(server: Several) -> None:
    folder = next(iter(server.places())).parent
    board = Board(Place(folder, 1, 2))
    with ExitStack() as stack:
        for _ in range(CONNECTIONS // 2):
            one = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
            assert one.post("/v2/models/digits/infer", json=BODY).status_code == 200
        # Whoever uploaded the model may have kept a connection too.
        wait_until(lambda: CONNECTIONS // 2 <= board.loads().sum() <= CONNECTIONS // 2 + 1)
        assert board.loads().max() - board.loads().min() <= 1
    wait_until(lambda: board.loads().sum() <= 1)


def test_every_process_has_followed_when_a_change_is_answered(server: Several) -> None:
    for _ in range(3):
        assert server.fresh("/v2/repository/models/digits/unload", {}).status_code == 200
        assert {server.infer() for _ in range(CONNECTIONS)} == {404}
        assert server.fresh("/v2/repository/models/digits/load", {}).status_code == 200
        assert {server.infer() for _ in range(CONNECTIONS)} == {200}


def test_settings_of_logs_and_traces_reach_every_process(server: Several) -> None:
    server.fresh("/v2/logging", {"log_verbose_level": 3})
    server.fresh("/v2/trace/setting", {"trace_rate": "5"})
    verbose = {server.fresh("/v2/logging").json()["log_verbose_level"] for _ in range(CONNECTIONS)}
    traces = [server.fresh("/v2/trace/setting").json() for _ in range(CONNECTIONS)]
    assert verbose == {3}
    assert {(trace["trace_rate"], trace["trace_file"]) for trace in traces} == {("5", traces[0]["trace_file"])}
    # What one process shows, another takes back.
    assert server.fresh("/v2/trace/setting", traces[0]).status_code == 200


def test_a_killed_process_takes_no_count_along_and_callers_go_on(server: Several) -> None:
    server.fresh("/v2/logging", {"log_verbose_level": 2})
    assert [server.infer() for _ in range(CONNECTIONS)] == [200] * CONNECTIONS
    answered, inferences = server.answered(), server.inferences()
    killed = next(iter(server.places().values()))
    os.kill(killed, signal.SIGKILL)
    # Collected, it has let go of its sockets for certain.
    wait_until(lambda: not Path(f"/proc/{killed}").exists())

    def whole_again() -> bool:
        nonlocal answered
        # Also while the new process loads its engines: until then no connection goes to it.
        assert server.infer() == 200
        last, answered = answered, server.answered()
        assert answered == last + 1
        return server.count("octavo_processes") == 2

    wait_until(whole_again)
    assert server.inferences() > inferences
    assert {server.infer() for _ in range(CONNECTIONS)} == {200}
    assert server.answered() == answered + CONNECTIONS
    verbose = {server.fresh("/v2/logging").json()["log_verbose_level"] for _ in range(CONNECTIONS)}
    assert verbose == {2}, "the new process logs as the others do"


def test_what_is_in_flight_is_answered_when_all_are_told_to_stop(tmp_path: Path) -> None:
    with running("serve", tmp_path, OCTAVO_PROCESSES="2", OCTAVO_PORT="0", OCTAVO_GRPC_PORT="0") as parent:
        port = wait_until(lambda: ports_of(tmp_path / "serve.log").get("port"))
        server = Several(f"http://127.0.0.1:{port}", 0, tmp_path)
        wait_until(lambda: ready(server))
        with httpx.Client(base_url=server.url, timeout=60) as client:
            upload_digits(client)
        with triton.InferenceServerClient(f"127.0.0.1:{ports_of(tmp_path / 'serve.log')['grpc_port']}") as grpc:
            assert grpc.is_model_ready("digits")
        body = json.dumps(BODY).encode()
        head = f"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        for caller in callers:
            caller.settimeout(30)
            # The whole answer to a first request shows that the connection was taken up.
            caller.sendall(head + body)
            assert caller.recv(65536).startswith(b"HTTP/1.1 200")
            caller.sendall(head + body[:-1])
        children = children_of(parent.pid)
        parent.send_signal(signal.SIGTERM)
        wait_until(lambda: (tmp_path / "serve.log").read_text().count("Shutting down") == 2)
        for caller in callers:
            caller.sendall(body[-1:])
            assert caller.recv(65536).startswith(b"HTTP/1.1 200")
            caller.close()
        assert parent.wait(30) == 0
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def ready(server: Several) -> bool:
    try:
        return server.fresh("/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_a_killed_parent_leaves_no_process_and_no_folder_behind(tmp_path: Path) -> None:
    with running("up", tmp_path, OCTAVO_PROCESSES="2", OCTAVO_PORT="0") as parent:
        port = wait_until(lambda: ports_of(tmp_path / "up.log").get("port"))
        server = Several(f"http://127.0.0.1:{port}", 0, tmp_path)
        wait_until(lambda: ready(server))
        assert server.count("octavo_processes") == 2
        children = children_of(parent.pid)
        places = places_of(parent.pid)
        assert (len(children), len(places)) == (3, 2), "two serve and one works"
        parent.kill()
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert not next(iter(places)).parent.exists()


def test_a_process_that_hangs_is_replaced(tmp_path: Path) -> None:
    with served(tmp_path, OCTAVO_PROCESSES="2", OCTAVO_HANG_SECONDS="3") as client:
        server = Several(str(client.base_url), 0, tmp_path)
        # Found by the first process, which may be the one that goes.
        parent = launched(tmp_path / "serve.log")
        before = places_of(parent)
        (place, hung), *_ = sorted(before.items())
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: places_of(parent).get(place, hung) != hung)
        after = places_of(parent)
        assert [after[each] == before[each] for each in sorted(before)] == [False, True]
        wait_until(lambda: server.count("octavo_processes") == 2)
    assert "process hangs and is killed" in (tmp_path / "serve.log").read_text()
