"""Which processes are started for which settings, and what keeps several from starting."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from service import launch as module
from service.errors import InvalidInput
from service.launch import launch
from service.settings import Settings, read_settings

Commands = dict[str, list[str]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """What a supervisor that starts nothing was told to start."""
    told: Commands = {}

    class Supervisor:
        def __init__(self, commands: dict[str, Sequence[str]], stop_seconds: float, hang_seconds: float) -> None:
            told.update({name: list(command)[3:] for name, command in commands.items()})
            assert stop_seconds > 30
            assert hang_seconds == 60

        def run(self) -> int:
            folders = {Path(option(command, "--place")).parent for command in told.values() if "--place" in command}
            assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
            return 0

    monkeypatch.setattr(module, "Supervisor", Supervisor)
    return told


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def several(**more: object) -> Settings:
    return read_settings(**{"processes": 3, "port": 0, "grpc_port": 0} | more)


def test_one_process_and_a_worker_are_started_as_ever(started: Commands) -> None:
    assert launch(read_settings(port=8000, grpc_port=8001, data_dir="d"), with_worker=True) == 0
    assert started == {
        "serve": [
            *("serve", "--host", "127.0.0.1", "--port", "8000", "--grpc-port", "8001", "--data-dir", "d"),
        ],
        "work": ["work", "--data-dir", "d"],
    }


def test_several_get_one_port_and_a_place_each_in_a_folder_that_goes_with_them(started: Commands) -> None:
    assert launch(several(), with_worker=True) == 0
    assert list(started) == ["serve-1", "serve-2", "serve-3", "work"]
    assert option(started.pop("work"), "--processes") == "3"
    for name in ("--port", "--grpc-port"):
        (port,) = {option(command, name) for command in started.values()}
        assert int(port) > 0
    places = [Path(option(command, "--place")) for command in started.values()]
    assert [place.name for place in places] == ["1", "2", "3"]
    assert not places[0].parent.exists()


def test_without_grpc_no_port_is_held_for_it(started: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_GRPC_PORT", "")
    launch(several(grpc_port=None), with_worker=False)
    assert list(started) == ["serve-1", "serve-2", "serve-3"]
    assert all("--grpc-port" not in command for command in started.values())


def test_several_need_linux(started: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidInput, match=r"OCTAVO_PROCESSES is 3: only Linux .*; set it to 1"):
        launch(several(), with_worker=False)
    assert started == {}


def test_a_folder_whose_path_is_too_long_for_a_socket_is_refused(
    started: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(InvalidInput, match="is too long for a socket; name a shorter folder with TMPDIR"):
        launch(several(), with_worker=False)
    assert list(long.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(InvalidInput, match="No such file or directory; name one with TMPDIR"):
        launch(several(), with_worker=False)
    assert started == {}
