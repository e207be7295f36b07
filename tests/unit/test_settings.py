"""What the settings promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import InvalidInput
from service.settings import read_settings


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


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OCTAVO_PORT", "70000"),
        ("OCTAVO_PORT", "http"),
        ("OCTAVO_GRPC_PORT", "-1"),
        ("OCTAVO_GRPC_PORT", "65536"),
        ("OCTAVO_GRPC_PORT", "none"),
        ("OCTAVO_ENGINE_THREADS", "0"),
        ("OCTAVO_PROCESSES", "0"),
        ("OCTAVO_PROCESSES", "65"),
        ("OCTAVO_PROCESSES", "2.5"),
        ("OCTAVO_MAX_UPLOAD_BYTES", "-1"),
        ("OCTAVO_LOG_LEVEL", "LOUD"),
        ("OCTAVO_BATCH_DELAY_SECONDS", "11"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput, match=f"{variable} is '{value}'.*docs/settings.md"):
        read_settings()
