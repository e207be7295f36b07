"""What operators rely on: metrics, the OpenAPI document, and one form of error on every path."""

from __future__ import annotations

import json
from threading import Event
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.dependencies import Services
from service.api.schemas_batching import BatchingBody
from service.api.schemas_requests import DeploymentBody, QuantizeBody
from service.errors import Unavailable
from service.registry.database import Database
from service.registry.jobs import JobRegistry
from service.registry.workers import WorkerRegistry
from tests.samples import quantize_request
from tests.uploading import refusal
from tests.waiting import wait_until


def samples(client: httpx.Client, family: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(sample name, labels) -> value of one metric family."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {each.name: each for each in text_string_to_metric_families(answer.text)}
    listed = found[family].samples if family in found else []
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for each in listed}


def counted(client: httpx.Client, method: str, path: str, status: str) -> float:
    labels = (("method", method), ("path", path), ("status", status))
    return samples(client, "octavo_http_requests").get(("octavo_http_requests_total", labels), 0.0)


def test_jobs_are_counted_by_state(client: httpx.Client, services: Services, database: Database) -> None:
    job, _ = services.jobs.submit(quantize_request())
    services.jobs.submit(quantize_request("fp16"))
    JobRegistry(database).begin(job.id)
    found = {labels[1][1]: value for (_, labels), value in samples(client, "octavo_jobs").items()}
    assert found == {"queued": 1, "running": 1, "succeeded": 0, "rejected": 0, "failed": 0, "cancelled": 0}


def test_workers_that_live_are_counted(client: httpx.Client, database: Database) -> None:
    assert samples(client, "octavo_workers") == {("octavo_workers", ()): 0}
    WorkerRegistry(database).sign_on("a", 60.0)
    assert samples(client, "octavo_workers") == {("octavo_workers", ()): 1}


def test_job_durations_are_a_histogram(client: httpx.Client, services: Services, database: Database) -> None:
    job, _ = services.jobs.submit(quantize_request())
    JobRegistry(database).begin(job.id)
    JobRegistry(database).finish(job.id, "succeeded", result={})
    found = samples(client, "octavo_job_duration_seconds")
    labels = (("kind", "quantize"), ("state", "succeeded"))
    assert found["octavo_job_duration_seconds_count", labels] == 1
    assert 0 <= found["octavo_job_duration_seconds_sum", labels] < 10
    assert found["octavo_job_duration_seconds_bucket", (labels[0], ("le", "+Inf"), labels[1])] == 1


def test_metrics_are_answered_while_the_database_is_away(
    client: httpx.Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> dict[tuple[str, str], int]:
        raise Unavailable("the database did not answer; try again")

    monkeypatch.setattr(services.jobs, "counts", fail)
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "octavo_jobs{" not in answer.text
    assert "octavo_http_requests_total" in answer.text


def test_metrics_are_answered_while_the_database_hangs_and_one_thread_waits_for_it(
    client: httpx.Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, goes_on = [], Event()

    def hang() -> dict[tuple[str, str], int]:
        asked.append(1)
        goes_on.wait(30)
        return {}

    monkeypatch.setattr(services.jobs, "counts", hang)
    try:
        for _ in range(2):
            answer = client.get("/metrics", timeout=5)
            assert "octavo_jobs{" not in answer.text
            assert "octavo_http_requests_total" in answer.text
        assert len(asked) == 1
    finally:
        goes_on.set()
    wait_until(lambda: "octavo_jobs{" in client.get("/metrics").text)


def test_answers_are_counted_by_route_and_never_by_the_callers_path(client: httpx.Client) -> None:
    before = counted(client, "GET", "/models/{name}", "404")
    client.get("/models/one")
    client.get("/models/two")
    assert counted(client, "GET", "/models/{name}", "404") == before + 2
    lost = counted(client, "GET", "unmatched", "404")
    client.get("/wp-admin/setup.php")
    client.get("/another")
    assert counted(client, "GET", "unmatched", "404") == lost + 2
    brewed = counted(client, "other", "/models", "405")
    client.request("PROPFIND", "/models")
    assert counted(client, "other", "/models", "405") == brewed + 1
    text = client.get("/metrics").text
    assert "wp-admin" not in text
    assert "PROPFIND" not in text


def test_inference_is_left_to_the_router_to_count(client: httpx.Client) -> None:
    client.get("/v2/health/live")
    client.post("/models/digits/predict")
    assert "/v2" not in client.get("/metrics").text
    assert "predict" not in client.get("/metrics").text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PUT", "/models", 405), ("DELETE", "/jobs", 405), ("GET", "/quantize", 405)],
)
def test_every_path_answers_errors_in_the_one_form(client: httpx.Client, method: str, path: str, status: int) -> None:
    refusal(client.request(method, path), status)


def test_a_wrong_method_is_told_every_right_one(client: httpx.Client) -> None:
    answer = client.post("/models/digits/deployment")
    refusal(answer, 405, "DELETE, GET, PUT")
    assert answer.headers["allow"] == "DELETE, GET, PUT"


def test_the_openapi_document_names_every_path_of_the_contract(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    expected = {
        "/models": {"get", "post"},
        "/models/{name}": {"get"},
        "/models/{name}/versions/{version}": {"get", "delete"},
        "/models/{name}/engines": {"get"},
        "/models/{name}/deployment": {"get", "put", "delete"},
        "/models/{name}/deployment/promote": {"post"},
        "/models/{name}/deployment/rollback": {"post"},
        "/datasets": {"get", "post"},
        "/datasets/{name}": {"get", "delete"},
        "/quantize": {"post"},
        "/jobs": {"get"},
        "/jobs/{job_id}": {"get", "delete"},
        "/jobs/{job_id}/events": {"get"},
        "/jobs/{job_id}/report": {"get"},
        "/jobs/{job_id}/report.html": {"get"},
        "/metrics": {"get"},
    }
    assert {path: set(document["paths"].get(path, {})) for path in expected} == expected
    assert client.get("/docs").status_code == 200


def test_every_error_of_the_openapi_document_has_the_one_form(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    errors: list[Any] = [
        answer["content"]["application/json"]["schema"]
        for operations in document["paths"].values()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        if not status.startswith("2")
    ]
    assert errors
    assert all(schema == {"$ref": "#/components/schemas/ErrorBody"} for schema in errors)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_uploads_are_described_as_forms(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, optional in (("/models", {"labels", "preprocessing", "sha256"}), ("/datasets", {"model", "sha256"})):
        schema = paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert schema["required"] == ["name", "file"]
        assert set(schema["properties"]) >= optional


def test_the_bounds_of_numbers_are_in_the_openapi_document(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    rows = schemas["CalibrationBody"]["properties"]["rows"]
    assert (rows["type"], rows["minimum"], rows["maximum"]) == ("integer", 1, 100_000)
    weight = schemas["CanaryBody"]["properties"]["weight"]
    assert (weight["type"], weight["minimum"], weight["maximum"]) == ("integer", 0, 100)


def test_the_document_shows_a_body_that_is_taken_for_each_request_that_has_one() -> None:
    for body in (QuantizeBody, DeploymentBody, BatchingBody):
        (example,) = body.model_json_schema()["examples"]
        assert body.model_validate_json(json.dumps(example)).model_fields_set == example.keys()
        with pytest.raises(ValueError, match="Extra inputs"):
            body.model_validate_json(json.dumps(example | {"another": 1}))
