"""An installation that cannot start says why in one line, and ends; it neither restarts for ever nor tells secrets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import free_port, running, served
from tests.waiting import wait_until


def started(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`octavo COMMAND`, which must end by itself."""
    environment = os.environ | {"OCTAVO_GRPC_PORT": ""} | settings
    arguments = [sys.executable, "-m", "service", command]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60)


def last_word(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line of plain words among the JSON lines of the log."""
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("octavo: ")]
    assert len(lines) >= 1, ended.stderr
    return lines[0]


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def test_a_signal_that_comes_while_the_server_starts_ends_it(tmp_path: Path) -> None:
    with running("serve", tmp_path, OCTAVO_PORT="0") as process:
        wait_until(lambda: _handles(process.pid, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _handles(pid: int, number: int) -> bool:
    """Whether the process does something of its own about the signal, as the kernel has it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_port_in_use(tmp_path: Path, taken_port: str, command: str) -> None:
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path), OCTAVO_PORT=taken_port)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{taken_port}: address already in use" in last_word(ended).lower()
    assert "OCTAVO_PORT" in last_word(ended)


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_port_of_grpc_in_use(tmp_path: Path, taken_port: str, command: str) -> None:
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path), OCTAVO_PORT=str(free_port()), OCTAVO_GRPC_PORT=taken_port)
    assert ended.returncode == 2
    assert f"cannot listen for grpc on 127.0.0.1:{taken_port}: address already in use" in last_word(ended).lower()
    assert "OCTAVO_GRPC_PORT" in last_word(ended)


@pytest.mark.parametrize("command", ["serve", "up"])
@pytest.mark.parametrize("variable", ["OCTAVO_PORT", "OCTAVO_GRPC_PORT"])
def test_a_port_in_use_is_told_once_before_any_of_several_processes_starts(
    tmp_path: Path, taken_port: str, command: str, variable: str
) -> None:
    ports = {"OCTAVO_PORT": str(free_port()), "OCTAVO_GRPC_PORT": str(free_port()), variable: taken_port}
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path / "data"), OCTAVO_PROCESSES="2", **ports)
    assert ended.returncode == 2
    assert f"127.0.0.1:{taken_port}: address already in use" in last_word(ended).lower()
    assert variable in last_word(ended)
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_second_server_of_several_processes_does_not_share_the_ports_of_the_first(tmp_path: Path) -> None:
    port = str(free_port())
    with served(tmp_path / "first", OCTAVO_PROCESSES="2", OCTAVO_GRPC_PORT=port) as client:
        first = {"OCTAVO_PORT": str(client.base_url.port), "OCTAVO_GRPC_PORT": port}
        for variable in first:
            own = {name: str(free_port()) for name in first} | {variable: first[variable]}
            for processes in ("1", "2"):
                settings = own | {"OCTAVO_DATA_DIR": str(tmp_path / "second"), "OCTAVO_PROCESSES": processes}
                ended = started("serve", **settings)
                assert ended.returncode == 2
                assert f"127.0.0.1:{first[variable]}: Address already in use" in last_word(ended)


@pytest.mark.parametrize("processes", ["0", "65", "many"])
@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_number_of_processes_that_is_not_allowed(tmp_path: Path, command: str, processes: str) -> None:
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path), OCTAVO_PROCESSES=processes)
    assert ended.returncode == 2
    assert f"OCTAVO_PROCESSES is '{processes}'" in last_word(ended)
    assert "set it to an allowed value (see docs/settings.md)" in last_word(ended)


def test_a_place_among_several_processes_that_nobody_gave(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "service", "serve", "--place", str(tmp_path / "x" / "1")]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "leave it out, `octavo serve --processes N` sets it" in last_word(ended)


def test_a_port_of_http_in_use_while_that_of_grpc_is_free(tmp_path: Path, taken_port: str) -> None:
    ended = started("serve", OCTAVO_DATA_DIR=str(tmp_path), OCTAVO_PORT=taken_port, OCTAVO_GRPC_PORT="0")
    assert ended.returncode == 2
    assert "(OCTAVO_HOST, OCTAVO_PORT)" in last_word(ended)


def test_a_second_server_does_not_share_the_port_of_grpc_with_the_first(tmp_path: Path) -> None:
    port = str(free_port())
    with served(tmp_path / "first", OCTAVO_GRPC_PORT=port):
        ended = started(
            "serve", OCTAVO_DATA_DIR=str(tmp_path / "second"), OCTAVO_PORT=str(free_port()), OCTAVO_GRPC_PORT=port
        )
    assert ended.returncode == 2
    assert f"cannot listen for gRPC on 127.0.0.1:{port}" in last_word(ended)


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_host_of_another_machine_and_a_setting_that_is_none_are_told_once_each(tmp_path: Path, command: str) -> None:
    port = str(free_port())
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path), OCTAVO_HOST="192.0.2.1", OCTAVO_PORT=port, OCTAVO_PRT="1")
    assert ended.returncode == 2
    assert "cannot listen on the host '192.0.2.1'" in last_word(ended)
    assert "--host (OCTAVO_HOST)" in last_word(ended)
    assert ended.stderr.count("OCTAVO_PRT (did you mean OCTAVO_PORT?)") == 1


@pytest.mark.parametrize("command", ["serve", "up"])
def test_one_port_for_http_and_grpc(tmp_path: Path, command: str) -> None:
    port = str(free_port())
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path), OCTAVO_PORT=port, OCTAVO_GRPC_PORT=port)
    assert ended.returncode == 2
    assert f"port {port} is that of HTTP and of gRPC" in last_word(ended)


@pytest.mark.parametrize("command", ["serve", "work", "up"])
def test_a_data_folder_that_cannot_be_made(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path / "file"), OCTAVO_PORT=str(free_port()))
    assert ended.returncode == 2
    assert "OCTAVO_DATA_DIR" in last_word(ended)
    assert str(tmp_path / "file") in last_word(ended)


@pytest.mark.parametrize("command", ["serve", "work"])
def test_a_database_that_is_not_there(tmp_path: Path, command: str) -> None:
    url = f"postgresql://octavo:hunter2@127.0.0.1:{free_port()}/octavo"
    ended = started(command, OCTAVO_DATA_DIR=str(tmp_path), OCTAVO_DATABASE_URL=url)
    # Not 2: it may be up a moment later, so a supervisor should try again.
    assert ended.returncode == 4
    assert "the database did not answer" in last_word(ended)
    assert "hunter2" not in ended.stdout + ended.stderr
