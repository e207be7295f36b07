"""Numbers that an option takes are those that the server takes: help, errors and the API tell the same limits."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.schemas_batching import BatchingBody
from service.api.schemas_requests import BatchBody, BudgetBody, CalibrationBody
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

OPTIONS: list[tuple[str, str, type[BaseModel], str]] = [
    ("quantize", "--rows", CalibrationBody, "rows"),
    ("quantize", "--percentile", CalibrationBody, "percentile"),
    ("quantize", "--batch-min", BatchBody, "min"),
    ("quantize", "--batch-opt", BatchBody, "opt"),
    ("quantize", "--batch-max", BatchBody, "max"),
    ("quantize", "--max-loss", BudgetBody, "max_loss"),
    ("quantize", "--min-speedup", BudgetBody, "min_speedup"),
    ("batching", "--max-batch-rows", BatchingBody, "max_batch_rows"),
    ("batching", "--delay", BatchingBody, "batch_delay_seconds"),
    ("batching", "--max-queue-rows", BatchingBody, "max_queue_rows"),
    ("batching", "--timeout", BatchingBody, "timeout_seconds"),
    ("batching", "--priority-levels", BatchingBody, "priority_levels"),
    ("batching", "--default-priority", BatchingBody, "default_priority"),
]


def limits(body: type[BaseModel], field: str) -> tuple[float, bool, float]:
    """The lowest number, whether it is itself refused, and the highest."""
    schema: dict[str, Any] = body.model_json_schema()["properties"][field]
    schema = next((kind for kind in schema.get("anyOf", ()) if "maximum" in kind), schema)
    refused = "exclusiveMinimum" in schema
    return schema["exclusiveMinimum" if refused else "minimum"], refused, schema["maximum"]


@pytest.mark.parametrize(("command", "option", "body", "field"), OPTIONS)
def test_the_help_shows_the_range_that_the_server_takes(
    octavo: Octavo, command: str, option: str, body: type[BaseModel], field: str
) -> None:
    told = octavo(command, "--help", COLUMNS="300").out.split("Examples")[0]
    shown = re.search(rf" {option} .*\[([\d.]+)(<=?)x<=([\d.]+)\]", told)
    assert shown is not None
    assert (float(shown[1]), shown[2] == "<", float(shown[3])) == limits(body, field)


@pytest.mark.parametrize(("command", "option", "body", "field"), OPTIONS)
def test_what_the_server_would_refuse_is_wrong_usage_and_nothing_is_sent(
    octavo: Octavo, server: ScriptedServer, command: str, option: str, body: type[BaseModel], field: str
) -> None:
    lowest, refused, highest = limits(body, field)
    for value, limit in ((lowest if refused else lowest - 1, lowest), (highest + 1, highest)):
        outcome = octavo(command, "digits", f"{option}={value:.12g}", COLUMNS="300")
        assert outcome.code == 2
        assert f"'{option}'" in outcome.err
        assert f"{limit:.12g}" in outcome.err
    assert server.received == []


def test_the_ends_of_a_range_are_sent(octavo: Octavo, server: ScriptedServer) -> None:
    path = "/models/digits/batching"
    server.answer("GET", path, {})
    server.answer("PUT", path, {})
    assert octavo("batching", "digits", "--delay", "10", "--timeout", "86400").code == 0
    assert server.only("PUT", path).document == {"batch_delay_seconds": 10.0, "timeout_seconds": 86400.0}
