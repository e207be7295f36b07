"""`octavo quantize`: the request it sends and the exit code for each end of a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

BuildJob = Callable[..., dict[str, Any]]
DEPLOYED = {"version": 1, "stable": {"variant": "int8-onnxruntime"}, "canary": None, "shadow": None, "loaded": True}
RESULT = {"variant": "int8-onnxruntime", "certificate": {"verdict": "passed", "reason": "top1 lost 0.0 of 0.01"}}


def run_to(server: ScriptedServer, end: dict[str, Any]) -> None:
    """Scripts a build that is accepted, runs, and ends so."""
    queued = end | {"state": "queued", "result": None, "error": None}
    server.answer("POST", "/quantize", queued, status=202, Location="/jobs/j1")
    server.answer("GET", "/jobs/j1", queued)
    server.events("j1", queued | {"state": "running", "stage": "build"}, end)
    server.answer("GET", "/jobs/j1/report", {})


def test_only_what_was_given_is_sent(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    server.answer("POST", "/quantize", job("queued"), status=202)
    assert octavo("quantize", "digits", "--no-wait").code == 0
    assert server.only("POST", "/quantize").document == {"model": "digits"}


def test_every_option_reaches_its_place_in_the_request(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    server.answer("POST", "/quantize", job("queued"), status=202)
    options = (
        "--version 2 --precision int8 --runtime onnxruntime --scheme asymmetric --granularity per_tensor --around fp32 "
        "--weights fixed --sparsity none "
        "--method percentile --rows 64 --percentile 99.9 --keep-float /head/* --keep-float op:Softmax "
        "--batch-min 2 --batch-opt 4 --batch-max 16 --calibration c --validation v --metric top5 --max-loss 0 "
        "--min-speedup 1.5 --deploy canary --no-wait --idempotency-key k1"
    )
    assert octavo("quantize", "digits", *options.split()).code == 0
    request = server.only("POST", "/quantize")
    assert request.headers["idempotency-key"] == "k1"
    assert request.document == {
        "model": "digits",
        "version": 2,
        "recipe": {
            "precision": "int8",
            "runtime": "onnxruntime",
            "scheme": "asymmetric",
            "granularity": "per_tensor",
            "around": "fp32",
            "weights": "fixed",
            "sparsity": "none",
            "calibration": {"method": "percentile", "rows": 64, "percentile": 99.9},
            "keep_float": ["/head/*", "op:Softmax"],
            "batch": {"min": 2, "opt": 4, "max": 16},
        },
        "calibration": "c",
        "validation": "v",
        "budget": {"metric": "top5", "max_loss": 0.0, "min_speedup": 1.5},
        "deploy": "canary",
    }


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("rejected", 3), ("cancelled", 6)])
def test_the_exit_code_tells_how_the_job_ended(
    octavo: Octavo, server: ScriptedServer, job: BuildJob, state: str, code: int
) -> None:
    run_to(server, job(state))
    assert octavo("quantize", "digits").code == code


@pytest.mark.parametrize("state", ["succeeded", "failed", "rejected", "cancelled"])
def test_with_json_stdout_is_the_finished_job_however_it_ended(
    octavo: Octavo, server: ScriptedServer, job: BuildJob, state: str
) -> None:
    end = job(state, result=RESULT)
    run_to(server, end)
    outcome = octavo("quantize", "digits", "--json")
    assert outcome.document == end
    assert outcome.err == ""


@pytest.mark.parametrize("deploy", ["promote", "canary", "shadow"])
def test_a_command_that_deploys_ends_once_the_deployment_is_served(
    octavo: Octavo, server: ScriptedServer, job: BuildJob, deploy: str
) -> None:
    run_to(server, job("succeeded", result=RESULT))
    route = {"promote": "stable"}.get(deploy, deploy)
    other = {"stable": {"variant": "fp32-onnxruntime"}}
    server.answer("GET", "/models/digits/deployment", DEPLOYED | other | {route: {"variant": "int8-onnxruntime"}})
    server.answer("POST", "/v2/repository/index", [{"name": "digits", "version": "1", "state": "READY"}])
    assert octavo("quantize", "digits", "--deploy", deploy).code == 0
    assert server.only("GET", "/models/digits/deployment").query == {"wait": ["true"]}


def test_a_result_that_could_not_be_loaded_is_shown_and_is_a_failure(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    run_to(server, job("succeeded", result=RESULT))
    failure = {"error": "too little memory", "code": "engine_failed"}
    server.answer("GET", "/models/digits/deployment", failure, status=500)
    outcome = octavo("quantize", "digits", "--deploy", "promote")
    assert outcome.code == 1
    assert "int8-onnxruntime" in outcome.out
    assert "too little memory" in outcome.err


def test_with_json_stdout_is_the_job_alone_also_where_its_engine_cannot_be_loaded(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    end = job("succeeded", result=RESULT)
    run_to(server, end)
    server.answer("GET", "/models/digits/deployment", {"error": "too little memory", "code": "engine_failed"}, 500)
    outcome = octavo("quantize", "digits", "--deploy", "promote", "--json")
    assert (outcome.code, outcome.document) == (1, end)
    assert "too little memory" in outcome.err
    assert "octavo deploy digits --rollback" in outcome.err


@pytest.mark.parametrize("code", ["not_ready", "stopping"])
def test_a_deployment_that_still_loads_is_asked_for_again(
    octavo: Octavo, server: ScriptedServer, job: BuildJob, code: str
) -> None:
    run_to(server, job("succeeded", result=RESULT))
    server.answer("GET", "/models/digits/deployment", {"error": "ask again", "code": code}, 503)
    server.answer("GET", "/models/digits/deployment", DEPLOYED)
    server.answer("POST", "/v2/repository/index", [])
    assert octavo("quantize", "digits", "--deploy", "promote").code == 0
    assert [request.path for request in server.received].count("/models/digits/deployment") == 2


def test_with_json_stdout_is_the_job_alone_also_where_the_index_cannot_be_read(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    end = job("succeeded", result=RESULT)
    run_to(server, end)
    server.answer("GET", "/models/digits/deployment", DEPLOYED)
    server.answer("POST", "/v2/repository/index", {"error": "the server stops", "code": "stopping"}, 503)
    outcome = octavo("quantize", "digits", "--deploy", "promote", "--json")
    assert (outcome.code, outcome.document) == (1, end)
    assert "the server stops" in outcome.err


def test_an_engine_in_whose_place_another_answers_is_a_failure_that_says_why(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    run_to(server, job("succeeded", result=RESULT))
    server.answer("GET", "/models/digits/deployment", DEPLOYED)
    other = {"name": "other", "version": "1", "state": "READY", "reason": "its canary is broken"}
    ours = {"name": "digits", "version": "1", "state": "READY", "reason": "it is unproven on this host"}
    server.answer("POST", "/v2/repository/index", [other, ours])
    outcome = octavo("quantize", "digits", "--deploy", "promote")
    assert outcome.code == 1
    assert "does not answer: it is unproven on this host" in outcome.err
    assert "canary" not in outcome.err


@pytest.mark.parametrize(
    ("mode", "changed", "found", "command"),
    [
        ("promote", {"stable": {"variant": "fp32-onnxruntime"}}, "version 1 is deployed (stable fp32-onnxruntime)",
         "octavo deploy digits int8-onnxruntime --version 1"),
        ("promote", {"version": 2}, "version 2 is deployed (stable int8-onnxruntime)",
         "octavo deploy digits int8-onnxruntime --version 1"),
        ("canary", {"stable": {"variant": "a"}, "canary": {"variant": "b", "weight": 5}}, "(stable a, canary b)",
         "octavo deploy digits --canary int8-onnxruntime --weight 10 --version 1"),
        ("shadow", {"stable": {"variant": "a"}}, "(stable a)",
         "octavo deploy digits --shadow int8-onnxruntime --version 1"),
        ("canary", {"version": 2}, "version 2 is deployed", "octavo deploy digits int8-onnxruntime --version 1"),
        ("promote", {"loaded": False}, "deployed and unloaded", "octavo deploy digits int8-onnxruntime --version 1"),
    ],
)  # fmt: skip
def test_an_earlier_jobs_engine_that_is_deployed_no_longer_is_a_failure_with_the_command_that_deploys_it(
    octavo: Octavo,
    server: ScriptedServer,
    job: BuildJob,
    mode: str,
    changed: dict[str, Any],
    found: str,
    command: str,
) -> None:
    server.answer("POST", "/quantize", job("succeeded", result=RESULT), status=200)
    server.answer("GET", "/jobs/j1", job("succeeded", result=RESULT))
    server.answer("GET", "/jobs/j1/report", {})
    server.answer("GET", "/models/digits/deployment", DEPLOYED | changed)
    outcome = octavo("quantize", "digits", "--deploy", mode)
    assert outcome.code == 1
    assert found in outcome.err
    assert f"`{command}`" in outcome.err


def test_a_canary_that_was_promoted_meanwhile_needs_no_command(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    run_to(server, job("succeeded", result=RESULT))
    server.answer("GET", "/models/digits/deployment", DEPLOYED)
    outcome = octavo("quantize", "digits", "--deploy", "canary")
    assert outcome.code == 1
    assert "it is stable already" in outcome.err
    assert "octavo deploy" not in outcome.err


def test_an_engine_that_was_not_deployed_as_asked_is_a_failure_that_says_why(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    why = {"error": "version 2 is deployed; deploy it with PUT", "code": "conflict"}
    run_to(server, job("succeeded", result=RESULT | {"deployment": None, "deployment_error": why}))
    outcome = octavo("quantize", "digits", "--deploy", "canary")
    assert outcome.code == 1
    assert "version 2 is deployed" in outcome.err
    assert "version 2 is deployed" in outcome.out
    assert not [request for request in server.received if request.path == "/models/digits/deployment"]


def test_a_failed_job_shows_its_error(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    run_to(server, job("failed", error={"error": "stage build ran 9 s; raise its limit", "code": "stage_time_limit"}))
    assert "stage build ran 9 s; raise its limit" in octavo("quantize", "digits").out


def test_a_result_shows_variant_and_verdict(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    run_to(server, job("succeeded", result=RESULT))
    shown = octavo("quantize", "digits").out
    assert "int8-onnxruntime" in shown
    assert "top1 lost 0.0 of 0.01" in shown


def test_without_waiting_the_job_is_printed_and_not_followed(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    server.answer("POST", "/quantize", job("queued"), status=202)
    outcome = octavo("quantize", "digits", "--no-wait", "--json")
    assert outcome.document == job("queued")
    assert len(server.received) == 1


def test_a_repeated_request_is_told_to_be_the_earlier_job(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    server.answer("POST", "/quantize", job("succeeded"), status=200)
    assert "job j1" in octavo("quantize", "digits", "--no-wait").err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--precision", "int7"), ("--runtime", "tvm"), ("--scheme", "odd"), ("--granularity", "per_row"),
     ("--method", "guess"), ("--metric", "luck"), ("--deploy", "now"), ("--rows", "0"), ("--batch-max", "-1"),
     ("--max-loss", "-0.1"), ("--percentile", "101"), ("--version", "0")],
)  # fmt: skip
def test_a_value_that_cannot_be_is_wrong_usage_and_nothing_is_sent(
    octavo: Octavo, server: ScriptedServer, option: str, value: str
) -> None:
    outcome = octavo("quantize", "digits", option, value)
    assert outcome.code == 2
    assert option in outcome.err
    assert server.received == []
