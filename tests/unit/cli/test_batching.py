"""`octavo batching`: which settings each form of the command asks for."""

from __future__ import annotations

from typing import Any

from service.cli.exit_codes import ExitCode
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

PATH = "/models/digits/batching"
NOW = {"max_batch_rows": 16, "preferred_batch_rows": [], "batch_delay_seconds": None, "padding": None}


def asked_for(octavo: Octavo, server: ScriptedServer, *options: str) -> Any:
    server.answer("GET", PATH, NOW)
    server.answer("PUT", PATH, NOW)
    assert octavo("batching", "digits", *options).code == 0
    return server.only("PUT", PATH).document


def test_without_options_what_is_set_is_shown(octavo: Octavo, server: ScriptedServer) -> None:
    server.answer("GET", PATH, NOW)
    assert "16" in octavo("batching", "digits").out
    assert octavo("batching", "digits", "--json").document == NOW


def test_what_is_named_changes_and_the_rest_is_kept(octavo: Octavo, server: ScriptedServer) -> None:
    body = asked_for(octavo, server, "--preferred", "4, 8", "--delay", "0.002", "--buckets", "16,32")
    assert body == NOW | {
        "preferred_batch_rows": [4, 8],
        "batch_delay_seconds": 0.002,
        "padding": {"buckets": [16, 32]},
    }


def test_new_lengths_keep_the_values_that_inputs_are_padded_with(octavo: Octavo, server: ScriptedServer) -> None:
    values = {"input_ids": 1.0}
    server.answer("GET", PATH, NOW | {"padding": {"buckets": [8], "values": values}})
    assert asked_for(octavo, server, "--buckets", "16,32")["padding"] == {"buckets": [16, 32], "values": values}


def test_a_reset_keeps_no_value_to_pad_with(octavo: Octavo, server: ScriptedServer) -> None:
    assert asked_for(octavo, server, "--reset", "--buckets", "16") == {"padding": {"buckets": [16]}}


def test_a_reset_keeps_nothing_but_what_is_named(octavo: Octavo, server: ScriptedServer) -> None:
    assert asked_for(octavo, server, "--reset", "--timeout", "0.5") == {"timeout_seconds": 0.5}


def test_sizes_that_are_no_numbers_are_wrong_usage(octavo: Octavo) -> None:
    shown = octavo("batching", "digits", "--preferred", "four")
    assert shown.code == ExitCode.USAGE
    assert "'four'" in shown.err
