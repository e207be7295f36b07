"""What the deployment endpoints promise."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.api.dependencies import Services
from service.errors import EngineFailed, NotFound, NotReady
from tests.samples import artifact, new_model
from tests.unit.api.conftest import Router
from tests.uploading import refusal

PATH = "/models/digits/deployment"
REFERENCE: dict[str, Any] = {
    "version": 1,
    "stable": {"variant": "fp32-onnxruntime"},
    "canary": None,
    "shadow": None,
    "loaded": True,
}
INT8: dict[str, Any] = REFERENCE | {"stable": {"variant": "int8-onnxruntime"}}
CANARY: dict[str, Any] = REFERENCE | {"canary": {"variant": "int8-onnxruntime", "weight": 10}}


@pytest.fixture
def client(client: httpx.Client, services: Services) -> httpx.Client:
    """With the digits model, a passed INT8 variant and a rejected FP16 one."""
    services.models.add(new_model())
    services.engines.publish(artifact())
    services.engines.publish(artifact("fp16-onnxruntime", "r2", "rejected"))
    return client


def test_a_new_model_is_deployed_as_its_reference(client: httpx.Client) -> None:
    assert client.get(PATH).json() == REFERENCE


def test_a_change_is_answered_once_it_is_served(client: httpx.Client, router: Router) -> None:
    answer = client.put(PATH, json=INT8)
    assert (answer.status_code, answer.json()) == (200, INT8)
    assert router.settled[-1] == ("digits", 2)
    assert client.get(PATH).json() == INT8


def test_every_route_of_the_contract_is_kept(client: httpx.Client) -> None:
    wanted = CANARY | {"shadow": {"variant": "fp16-onnxruntime"}}
    assert client.put(PATH, json=wanted).json() == wanted
    assert client.put(PATH, json=client.get(PATH).json()).json() == wanted


def test_left_out_routes_are_none(client: httpx.Client) -> None:
    client.put(PATH, json=CANARY)
    assert client.put(PATH, json={"version": 1, "stable": {"variant": "fp32-onnxruntime"}}).json() == REFERENCE


def test_promote_makes_the_canary_stable_and_roll_back_returns(client: httpx.Client, router: Router) -> None:
    client.put(PATH, json=CANARY)
    assert client.post(f"{PATH}/promote").json() == INT8
    assert client.post(f"{PATH}/rollback").json() == CANARY
    assert [revision for _, revision in router.settled] == [2, 3, 4]


def test_nothing_to_promote_or_roll_back_answers_409(client: httpx.Client) -> None:
    refusal(client.post(f"{PATH}/promote"), 409, "no canary")
    refusal(client.post(f"{PATH}/rollback"), 409, "no earlier deployment")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (REFERENCE | {"stable": {"variant": "nope"}}, 404, "'nope'"),
        (REFERENCE | {"version": 9}, 404, "version 9"),
        (REFERENCE | {"stable": {"variant": "fp16-onnxruntime"}}, 409, "rejected"),
        (REFERENCE | {"canary": {"variant": "fp16-onnxruntime", "weight": 1}}, 409, "rejected"),
        (REFERENCE | {"shadow": {"variant": "fp32-onnxruntime"}}, 409, "stable variant already"),
        (REFERENCE | {"canary": {"variant": "int8-onnxruntime", "weight": 101}}, 422, "canary.weight is 101"),
        (REFERENCE | {"canary": {"variant": "int8-onnxruntime", "weight": -1}}, 422, "canary.weight is -1"),
        (REFERENCE | {"canary": {"variant": "int8-onnxruntime", "weight": "10"}}, 422, "canary.weight is '10'"),
        (REFERENCE | {"canary": {"variant": "int8-onnxruntime"}}, 422, "canary.weight is missing"),
        (REFERENCE | {"colour": 1}, 422, "colour is not a known field"),
        (REFERENCE | {"stable": {"variant": "../x"}}, 422, "'../x'"),
        (REFERENCE | {"version": "1"}, 422, "version is '1'"),
        ({"version": 1}, 422, "stable is missing"),
    ],
)
def test_a_wrong_deployment_is_refused_and_changes_nothing(
    client: httpx.Client, body: dict[str, Any], status: int, words: str
) -> None:
    refusal(client.put(PATH, json=body), status, words)
    assert client.get(PATH).json() == REFERENCE


def test_a_deployment_that_cannot_be_loaded_is_taken_back(client: httpx.Client, router: Router) -> None:
    router.failure = EngineFailed("the engine did not load: out of memory; free some")
    body = refusal(client.put(PATH, json=INT8), 500, "out of memory")
    assert body["code"] == "engine_failed"
    assert client.get(PATH).json() == REFERENCE


def test_a_deployment_whose_engine_is_missing_is_taken_back(client: httpx.Client, router: Router) -> None:
    router.failure = NotFound("blob 'content/ab/cd' is not in the store")
    body = refusal(client.put(PATH, json=INT8), 500, "not in the store")
    assert body["code"] == "engine_failed"
    assert client.get(PATH).json() == REFERENCE


def test_a_deployment_that_is_withdrawn_meanwhile_answers_404(
    client: httpx.Client, router: Router, services: Services
) -> None:
    router.failure = NotFound("model 'digits' is not deployed")
    router.meanwhile = lambda: services.deployments.withdraw("digits")
    refusal(client.put(PATH, json=INT8), 404, "not deployed")


def test_a_rollback_after_one_that_was_taken_back_goes_where_it_would_have_gone_before(
    client: httpx.Client, router: Router
) -> None:
    client.put(PATH, json=INT8)
    router.failure = EngineFailed("the engine did not load: out of memory; free some")
    refusal(client.put(PATH, json=CANARY), 500, "out of memory")
    router.failure = None
    assert client.get(PATH).json() == INT8
    assert client.post(f"{PATH}/rollback").json() == REFERENCE


def test_a_deployment_that_is_on_its_way_stands(client: httpx.Client, router: Router) -> None:
    router.failure = NotReady("revision 2 does not answer yet; look again")
    refusal(client.put(PATH, json=INT8), 503, "look again")
    assert client.get(PATH).json() == INT8


def test_a_deployment_that_a_job_changed_is_waited_for_until_it_is_served(client: httpx.Client, router: Router) -> None:
    woken = router.woken
    assert client.get(PATH, params={"wait": "true"}).json() == REFERENCE
    assert router.woken == woken + 1
    router.failure = EngineFailed("the engine did not load: out of memory; free some")
    refusal(client.get(PATH, params={"wait": "true"}), 500, "out of memory")
    assert client.get(PATH).json() == REFERENCE
    refusal(client.get(PATH, params={"wait": "long"}), 422, "wait")


def test_a_wait_for_a_deployment_ends_before_its_caller_gives_up(
    client: httpx.Client, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.hangs = True
    monkeypatch.setattr("service.api.deployments.WAIT_SECONDS", 0.05)
    refusal(client.get(PATH, params={"wait": "true"}), 503, "revision 1 of model 'digits' is not served", "ask again")


def test_a_withdrawn_model_is_served_no_more_and_can_be_deployed_again(client: httpx.Client, router: Router) -> None:
    woken = router.woken
    assert client.delete(PATH).status_code == 204
    assert router.woken == woken + 1
    refusal(client.get(PATH), 404, "not deployed")
    refusal(client.delete(PATH), 404, "not deployed")
    assert client.put(PATH, json=INT8).json() == INT8


def test_a_model_that_is_not_there_answers_404(client: httpx.Client) -> None:
    refusal(client.put("/models/nope/deployment", json=REFERENCE), 404, "'nope'")
    for path in ("promote", "rollback"):
        refusal(client.post(f"/models/nope/deployment/{path}"), 404, "'nope'")
