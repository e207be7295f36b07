"""What the settings promise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.errors import InvalidInput
from service.settings import drop_unknown_variables, read_server_settings, read_settings


def test_an_embedded_installation_needs_no_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    assert settings.resolved_database_url == f"sqlite:///{tmp_path / 'data' / 'octavo.db'}"
    assert settings.resolved_store_url == (tmp_path / "data" / "store").as_uri()


def test_the_environment_is_read_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_PORT", "9000")
    monkeypatch.setenv("OCTAVO_ENGINE_THREADS", "3")
    assert (read_settings().port, read_settings().engine_threads) == (9000, 3)
    assert read_settings(port=9001, host=None).port == 9001


@pytest.mark.parametrize(
    ("cpus", "processes", "threads"),
    [(None, 1, 1), (1, 1, 1), (2, 1, 1), (2, 2, 1), (16, 1, 8), (16, 3, 2), (16, 64, 1)],
)
def test_processes_share_out_the_threads_that_one_would_have(
    monkeypatch: pytest.MonkeyPatch, cpus: int | None, processes: int, threads: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    assert read_settings(processes=processes).engine_threads == threads
    monkeypatch.setenv("OCTAVO_ENGINE_THREADS", "5")
    assert read_settings(processes=processes).engine_threads == 5


@pytest.mark.parametrize(("value", "port"), [("", None), ("0", 0), ("9001", 9001)])
def test_grpc_is_left_out_by_an_empty_port(monkeypatch: pytest.MonkeyPatch, value: str, port: int | None) -> None:
    assert read_settings().grpc_port == 8001
    monkeypatch.setenv("OCTAVO_GRPC_PORT", value)
    assert read_settings().grpc_port == port
    assert read_settings(grpc_port=9002).grpc_port == 9002


def test_a_folder_that_cuts_the_databases_address_short_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"the folder '/srv/what\?' cannot hold the database"):
        read_settings(data_dir="/srv/what?")
    assert read_settings(data_dir="/srv/what?", database_url="postgresql://host/octavo")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OCTAVO_PORT", "70000"),
        ("OCTAVO_PORT", "http"),
        ("OCTAVO_GRPC_PORT", "-1"),
        ("OCTAVO_GRPC_PORT", "65536"),
        ("OCTAVO_GRPC_PORT", "none"),
        ("OCTAVO_ENGINE_THREADS", "0"),
        ("OCTAVO_ENGINE_THREADS", "1025"),
        ("OCTAVO_STAGE_MEMORY_BYTES", "16384"),
        ("OCTAVO_STAGE_MEMORY_BYTES", str(2**63)),
        ("OCTAVO_DRAIN_SECONDS", "inf"),
        ("OCTAVO_PROCESSES", "0"),
        ("OCTAVO_PROCESSES", "65"),
        ("OCTAVO_PROCESSES", "2.5"),
        ("OCTAVO_MAX_UPLOAD_BYTES", "-1"),
        ("OCTAVO_LOG_LEVEL", "LOUD"),
        ("OCTAVO_BATCH_DELAY_SECONDS", "11"),
        ("OCTAVO_HOST", ""),
        ("OCTAVO_HOST", " "),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput, match=f"{variable} is '{value}'.*docs/settings.md"):
        read_settings()


@pytest.mark.parametrize(("port", "grpc_port"), [(8001, None), (9000, 9000)])
def test_one_port_for_http_and_grpc_is_refused_with_both_settings(port: int, grpc_port: int | None) -> None:
    with pytest.raises(InvalidInput, match=rf"port {port} is that of HTTP and of gRPC.*--port.*--grpc-port"):
        read_server_settings(port=port, grpc_port=grpc_port)


def test_two_free_ports_and_no_grpc_are_no_shared_port(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_server_settings(port=0, grpc_port=0).port == 0
    monkeypatch.setenv("OCTAVO_GRPC_PORT", "")
    assert read_server_settings(port=8001).grpc_port is None


def test_unknown_variables_are_one_warning_with_the_closest_names_and_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment = {"OCTAVO_PRT": "1", "octavo_drain_second": "2", "OCTAVO_ZZZ": "secret", "HOME": "/"}
    drop_unknown_variables(environment)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "OCTAVO_PRT (did you mean OCTAVO_PORT?)" in record.getMessage()
    assert "octavo_drain_second (did you mean OCTAVO_DRAIN_SECONDS?)" in record.getMessage()
    assert "OCTAVO_ZZZ" in record.getMessage()
    assert "secret" not in record.getMessage()
    assert environment == {"HOME": "/"}
    drop_unknown_variables(environment)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "name",
    ["OCTAVO_PORT", "octavo_port", "OCTAVO_URL", "OCTAVO_SERVICE_HOST", "OCTAVO_SERVICE_PORT",
     "OCTAVO_SERVICE_PORT_HTTP", "OCTAVO_PORT_8000_TCP", "OCTAVO_PORT_8000_TCP_ADDR", "OCTOPUS"],
)  # fmt: skip
def test_known_variables_and_links_to_a_service_of_that_name_are_no_reason_for_a_warning(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    drop_unknown_variables({name: "1"})
    assert not caplog.records
