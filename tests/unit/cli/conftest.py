"""The client commands run in-process against a scripted server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.unit.cli.scripted_server import ScriptedServer


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return json.loads(self.out)


Octavo = Callable[..., Outcome]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().running() as running:
        yield running


@pytest.fixture
def octavo(server: ScriptedServer) -> Octavo:
    """Runs a command with OCTAVO_URL naming the scripted server."""

    def run(*arguments: object, **environment: str) -> Outcome:
        runner = CliRunner(env={"OCTAVO_URL": server.url, "COLUMNS": "160"} | environment)
        result = runner.invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def job() -> Callable[..., dict[str, Any]]:
    """A job as the HTTP contract shows it, with some fields changed."""

    def build(state: str, **fields: Any) -> dict[str, Any]:
        plain = {
            "id": "j1", "kind": "quantize", "model": "digits", "version": 1, "state": state, "stage": None,
            "progress": 0.0, "attempt": 1, "stages": [], "error": None, "result": None,
            "created_at": "2026-11-22T10:00:00Z", "finished_at": None,
        }  # fmt: skip
        return plain | fields

    return build
