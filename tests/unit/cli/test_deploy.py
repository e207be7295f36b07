"""`octavo deploy`: which deployment each form of the command asks for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

PATH = "/models/digits/deployment"
NOW = {
    "version": 2,
    "stable": {"variant": "fp32-onnxruntime"},
    "canary": {"variant": "fp16-onnxruntime", "weight": 5},
    "shadow": None,
}


def asked_for(octavo: Octavo, server: ScriptedServer, *options: str) -> Any:
    server.answer("GET", PATH, NOW)
    server.answer("PUT", PATH, NOW)
    assert octavo("deploy", "digits", *options).code == 0
    return server.only("PUT", PATH).document


def test_without_arguments_deployment_and_engines_are_shown(octavo: Octavo, server: ScriptedServer) -> None:
    engine = {"version": 2, "variant": "int8-onnxruntime", "runtime": "onnxruntime", "precision": "int8",
              "size_bytes": 2048, "certificate": {"verdict": "passed", "loss": 0.0021}, "job": "j1"}  # fmt: skip
    server.answer("GET", PATH, NOW)
    server.answer("GET", "/models/digits/engines", {"engines": [engine]})
    shown = octavo("deploy", "digits").out
    assert "fp16-onnxruntime (5 %)" in shown
    assert all(text in shown for text in ("int8-onnxruntime", "2.0 KiB", "passed", "0.0021"))
    assert octavo("deploy", "digits", "--json").document == {"deployment": NOW, "engines": [engine]}


def test_a_variant_becomes_stable_and_ends_the_other_routes(octavo: Octavo, server: ScriptedServer) -> None:
    body = asked_for(octavo, server, "int8-onnxruntime")
    assert body == {"version": 2, "stable": {"variant": "int8-onnxruntime"}}


def test_a_version_may_be_named(octavo: Octavo, server: ScriptedServer) -> None:
    assert asked_for(octavo, server, "int8-onnxruntime", "--version", "3")["version"] == 3


def test_a_canary_joins_what_is_deployed(octavo: Octavo, server: ScriptedServer) -> None:
    body = asked_for(octavo, server, "--canary", "int8-onnxruntime", "--weight", "10")
    assert body == {
        "version": 2,
        "stable": {"variant": "fp32-onnxruntime"},
        "canary": {"variant": "int8-onnxruntime", "weight": 10},
    }


def test_a_shadow_leaves_the_canary_as_it_is(octavo: Octavo, server: ScriptedServer) -> None:
    body = asked_for(octavo, server, "--shadow", "int8-onnxruntime")
    assert body["canary"] == NOW["canary"]
    assert body["shadow"] == {"variant": "int8-onnxruntime"}


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_promote_and_rollback_are_asked_of_the_server(octavo: Octavo, server: ScriptedServer, action: str) -> None:
    server.answer("POST", f"{PATH}/{action}", NOW)
    outcome = octavo("deploy", "digits", f"--{action}", "--json")
    assert outcome.code == 0
    assert outcome.document == NOW


def test_a_conflict_is_told_in_the_servers_words(octavo: Octavo, server: ScriptedServer) -> None:
    refusal = {"error": "variant 'x' is rejected: top1 lost 0.2; deploy another", "code": "unproven"}
    server.answer("GET", PATH, NOW)
    server.answer("PUT", PATH, refusal, status=409)
    outcome = octavo("deploy", "digits", "x")
    assert outcome.code == 1
    assert "top1 lost 0.2; deploy another" in outcome.err


@pytest.mark.parametrize(
    "options",
    [("--promote", "--rollback"), ("v", "--promote"), ("--canary", "v"), ("--weight", "10"),
     ("--canary", "v", "--weight", "101"), ("--shadow", "v", "--rollback")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_wrong_usage(
    octavo: Octavo, server: ScriptedServer, options: tuple[str, ...]
) -> None:
    assert octavo("deploy", "digits", *options).code == 2
    assert server.received == []
