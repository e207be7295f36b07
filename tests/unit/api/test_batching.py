"""What the batching endpoints promise."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.api.dependencies import Services
from service.domain.deployment import Deployment
from service.errors import InvalidInput, NotReady
from tests.samples import artifact, new_model
from tests.unit.api.conftest import Router
from tests.uploading import refusal

PATH = "/models/digits/batching"
DEFAULT: dict[str, Any] = {
    "max_batch_rows": None,
    "preferred_batch_rows": [],
    "batch_delay_seconds": None,
    "max_queue_rows": None,
    "timeout_seconds": None,
    "priority_levels": 0,
    "default_priority": 0,
    "padding": None,
}
SET: dict[str, Any] = {
    "max_batch_rows": 16,
    "preferred_batch_rows": [4, 8],
    "batch_delay_seconds": 0.002,
    "max_queue_rows": 64,
    "timeout_seconds": 1.5,
    "priority_levels": 3,
    "default_priority": 2,
    "padding": {"buckets": [16, 32], "values": {"input_ids": 1.0}},
}


@pytest.fixture
def client(client: httpx.Client, services: Services) -> httpx.Client:
    """With the digits model, and a passed INT8 variant."""
    services.models.add(new_model())
    services.engines.publish(artifact())
    return client


def test_a_model_goes_by_the_servers_settings_at_first(client: httpx.Client) -> None:
    assert client.get(PATH).json() == DEFAULT


def test_a_change_is_answered_once_it_holds_and_is_kept(client: httpx.Client, router: Router) -> None:
    answer = client.put(PATH, json=SET)
    assert (answer.status_code, answer.json()) == (200, SET)
    assert router.settled == [("digits", 2)]
    assert client.put(PATH, json=client.get(PATH).json()).json() == SET


def test_what_is_left_out_goes_back_to_its_default(client: httpx.Client) -> None:
    client.put(PATH, json=SET)
    assert client.put(PATH, json={"max_queue_rows": 8}).json() == DEFAULT | {"max_queue_rows": 8}


def test_other_variants_keep_it(client: httpx.Client) -> None:
    client.put(PATH, json=SET)
    deployment = "/models/digits/deployment"
    client.put(deployment, json={"version": 1, "stable": {"variant": "int8-onnxruntime"}})
    assert client.get(PATH).json() == SET
    client.post(f"{deployment}/rollback")
    assert client.get(PATH).json() == SET


def test_what_does_not_hold_is_taken_back_with_the_reason(client: httpx.Client, router: Router) -> None:
    client.put(PATH, json={"max_queue_rows": 8})
    router.failure = InvalidInput("padding changes the answers: output 'y' differs")
    refusal(client.put(PATH, json=SET), 400, "padding changes the answers")
    assert client.get(PATH).json() == DEFAULT | {"max_queue_rows": 8}


def test_what_does_not_hold_is_taken_back_though_other_variants_were_deployed_meanwhile(
    client: httpx.Client, services: Services, router: Router
) -> None:
    router.meanwhile = lambda: services.deployments.put(Deployment("digits", 1, "int8-onnxruntime"))
    router.failure = InvalidInput("padding changes the answers: output 'y' differs")
    refusal(client.put(PATH, json=SET), 400, "padding changes the answers")
    assert client.get(PATH).json() == DEFAULT
    assert services.deployments.find("digits").stable == "int8-onnxruntime"


def test_what_is_still_on_its_way_is_not_taken_back(client: httpx.Client, router: Router) -> None:
    router.failure = NotReady("it does not answer yet")
    refusal(client.put(PATH, json=SET), 503, "does not answer yet")
    assert client.get(PATH).json() == SET


def test_a_model_that_is_not_deployed_is_not_found(client: httpx.Client) -> None:
    for answer in (client.get("/models/none/batching"), client.put("/models/none/batching", json=SET)):
        refusal(answer, 404, "'none'", "PUT /models/none/deployment")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"max_batch_rows": 0}, "max_batch_rows is 0"),
        ({"max_batch_rows": 2**20 + 1}, "max_batch_rows is 1048577"),
        ({"max_queue_rows": -1}, "max_queue_rows is -1"),
        ({"preferred_batch_rows": [4, 4]}, "preferred_batch_rows [4, 4] must rise"),
        ({"preferred_batch_rows": [4, 32], "max_batch_rows": 8}, "exceed max_batch_rows 8"),
        ({"preferred_batch_rows": list(range(1, 66))}, "preferred_batch_rows"),
        ({"batch_delay_seconds": 11}, "batch_delay_seconds is 11"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0"),
        ({"priority_levels": 17}, "priority_levels is 17"),
        ({"priority_levels": 2}, "default_priority 0 is none of 2 priority_levels"),
        ({"default_priority": 1}, "default_priority 1 has no priority_levels"),
        ({"priority_levels": 2, "default_priority": 3}, "default_priority 3 is none of 2"),
        ({"padding": {"buckets": []}}, "padding.buckets is []"),
        ({"padding": {"buckets": [8, 4]}}, "buckets [8, 4] must rise"),
        ({"padding": {"buckets": [8], "values": {"x": 1e31}}}, "padding.values.x is 1e+31"),
        ({"delay": 1}, "delay is not a known field"),
    ],
)
def test_a_wrong_value_is_refused_by_name(client: httpx.Client, body: dict[str, Any], told: str) -> None:
    refusal(client.put(PATH, json=body), 422, told)
    assert client.get(PATH).json() == DEFAULT
