"""What the model endpoints promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from service.api.dependencies import Services
from service.domain.deployment import Deployment
from service.domain.engine import Fingerprint
from service.domain.limits import StageLimits
from service.engines.fingerprint import host_fingerprint
from service.errors import EngineFailed, OctavoError, StageCrashed, StageMemoryLimit, StageTimeLimit
from service.registry.blobs import content_key, content_sha256
from service.registry.runtime_caches import StoredRuntimeCaches
from tests.samples import artifact, quantize_request
from tests.unit.api.conftest import Router
from tests.uploading import digits_model, post_model, refusal

PREPROCESSING: dict[str, Any] = {
    "task": "classification",
    "width": 8,
    "height": 8,
    "layout": "NCHW",
    "color": "GRAY",
    "resize": "stretch",
    "scale": 1 / 255,
    "mean": [0.0],
    "std": [1.0],
}
LABELS = "\n".join(f"digit {number}" for number in range(10)) + "\n"


def test_an_upload_answers_201_with_every_field_of_the_contract(client: httpx.Client, router: Router) -> None:
    answer = post_model(client, labels=LABELS, preprocessing=json.dumps(PREPROCESSING))
    assert answer.status_code == 201
    assert answer.headers["location"] == "/models/digits/versions/1"
    body = answer.json()
    assert body.pop("created_at").endswith("Z")
    assert len(body.pop("sha256")) == 64
    assert body == {
        "name": "digits",
        "version": 1,
        "format": "onnx",
        "size_bytes": len(digits_model()),
        "opset": 17,
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        "preprocessing": PREPROCESSING,
        "labels": True,
    }
    assert router.settled == [("digits", 1)]
    assert client.get(answer.headers["location"]).json() == answer.json()


def test_the_bytes_and_labels_of_an_upload_are_stored(client: httpx.Client, services: Services) -> None:
    sha256 = post_model(client, labels=LABELS).json()["sha256"]
    assert services.blobs.read_bytes(content_key(sha256)) == digits_model()
    key = services.models.find("digits").labels_key
    assert key is not None
    assert services.blobs.read_bytes(key).decode().split("\n") == [f"digit {number}" for number in range(10)]
    assert list(services.spool.iterdir()) == []


def test_the_same_bytes_answer_200_with_the_version_they_are(
    services: Services, router: Router, serve: Callable[[Services], httpx.Client]
) -> None:
    first = post_model(serve(services))

    def never(task: str, arguments: dict[str, Any], *, limits: StageLimits) -> dict[str, Any]:
        raise AssertionError("known bytes are not inspected again")

    again = post_model(serve(replace(services, run_task=never)))
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert len(router.settled) == 1


def test_the_same_bytes_with_other_metadata_are_refused(client: httpx.Client, services: Services) -> None:
    post_model(client, labels=LABELS)
    other = LABELS.replace("digit 3", "three")
    body = refusal(post_model(client, labels=other), 409, "version 1", "other labels", "another name")
    assert body["code"] == "already_exists"
    refusal(post_model(client, preprocessing=json.dumps(PREPROCESSING)), 409, "other preprocessing")
    assert len(services.models.versions("digits")) == 1
    assert post_model(client, labels=LABELS).status_code == 200


def test_other_bytes_are_the_next_version_which_waits_for_a_deployment(client: httpx.Client) -> None:
    post_model(client)
    assert post_model(client, digits_model("second")).json()["version"] == 2
    assert [each["version"] for each in client.get("/models/digits").json()["versions"]] == [1, 2]
    assert [each["version"] for each in client.get("/models").json()["models"]] == [2]
    assert client.get("/models/digits/deployment").json()["version"] == 1


def test_two_writers_of_the_same_bytes_make_one_version(client: httpx.Client, services: Services) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post_model(client), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len(services.models.versions("digits")) == 1


def test_two_writers_of_other_bytes_make_a_version_each(client: httpx.Client, services: Services) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: post_model(client, digits_model(f"n{n}")), range(6)))
    assert sorted(answer.json()["version"] for answer in answers) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", "Ä", "UPPER", "-a", "n" * 300, "a b", "a\x00b"])
def test_a_name_that_is_not_allowed_is_refused(
    client: httpx.Client, nothing_left: Callable[[], None], name: str
) -> None:
    shown = repr(name)[:20].rstrip("'")
    assert refusal(post_model(client, name=name), 422, shown, "a-z")["code"] == "invalid_name"
    nothing_left()


@pytest.mark.parametrize("name", ["%2e%2e", "UPPER", "n" * 300, "%00", "%C3%84"])
def test_a_path_with_such_a_name_is_refused_too(client: httpx.Client, name: str) -> None:
    assert client.get(f"/models/{name}").status_code in (404, 422)
    assert set(client.get(f"/models/{name}/versions/1").json()) == {"error", "code"}


@pytest.mark.parametrize("version", ["0", "-1", "x", "99999999999999999999", "1.5"])
def test_a_version_that_is_no_version_is_refused(client: httpx.Client, version: str) -> None:
    refusal(client.get(f"/models/digits/versions/{version}"), 422, version)


def test_a_model_that_is_not_there_answers_404(client: httpx.Client) -> None:
    for path in ("/models/nope", "/models/nope/versions/1", "/models/nope/engines", "/models/nope/deployment"):
        assert refusal(client.get(path), 404, "'nope'")["code"] == "not_found"
    refusal(client.delete("/models/nope/versions/1"), 404, "'nope'")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (digits_model()[:5000], "cut off"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"hello, this is text", "no ONNX"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    client: httpx.Client, nothing_left: Callable[[], None], data: bytes, words: str
) -> None:
    assert refusal(post_model(client, data), 422, words)["code"] == "invalid_model"
    nothing_left()


def test_the_extension_must_be_onnx_or_absent(client: httpx.Client, nothing_left: Callable[[], None]) -> None:
    refusal(post_model(client, filename="model.txt"), 422, "'model.txt'", "'.txt'", ".onnx")
    refusal(post_model(client, filename=f"{'m' * 400}.pt"), 422, "403 characters")
    nothing_left()
    for number, filename in enumerate(("model", "MODEL.ONNX", "dir/model.onnx")):
        assert post_model(client, digits_model(f"n{number}"), filename=filename).status_code == 201


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("one\ntwo\n", "2 lines but output 'logits' has 10 classes"),
        (LABELS.replace("digit 4", ""), "line 5 of labels has 0 characters"),
        (LABELS.replace("digit 4", "x" * 257), "line 5 of labels has 257 characters"),
        ("x\n" * 100_001, "100001 lines"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    client: httpx.Client, nothing_left: Callable[[], None], labels: str, words: str
) -> None:
    refusal(post_model(client, labels=labels), 422, words)
    nothing_left()


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        ("{", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[1]", "JSON object"),
        (json.dumps(PREPROCESSING | {"colour": "RGB"}), "colour"),
        (
            json.dumps(PREPROCESSING | {"width": 28, "height": 28}),
            "[1, 28, 28] but the model takes input [-1, 1, 8, 8]",
        ),
        (json.dumps(PREPROCESSING | {"layout": "NHWC"}), "[8, 8, 1]"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(
    client: httpx.Client, nothing_left: Callable[[], None], preprocessing: str, words: str
) -> None:
    body = refusal(post_model(client, preprocessing=preprocessing), 422, words)
    assert body["code"] == "invalid_preprocessing"
    nothing_left()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (StageTimeLimit("/secret/path ran long"), "over 3600 s"),
        (StageMemoryLimit("/secret/path grew"), "bytes"),
        (StageCrashed("/secret/path crashed; reproduce it"), "broke the process"),
    ],
)
def test_a_file_that_breaks_its_inspection_is_refused_without_a_word_of_this_host(
    services: Services,
    serve: Callable[[Services], httpx.Client],
    nothing_left: Callable[[], None],
    failure: OctavoError,
    words: str,
) -> None:
    def fail(task: str, arguments: dict[str, Any], *, limits: StageLimits) -> dict[str, Any]:
        raise failure

    body = refusal(post_model(serve(replace(services, run_task=fail))), 422, words)
    assert body["code"] == "invalid_model"
    assert "/secret" not in body["error"]
    nothing_left()


def test_the_engines_of_a_model_are_listed_with_their_proof(client: httpx.Client, services: Services) -> None:
    post_model(client)
    services.engines.publish(artifact())
    int8, fp32 = sorted(client.get("/models/digits/engines").json()["engines"], key=lambda each: each["precision"])[
        ::-1
    ]
    assert (int8["job"], int8["certificate"]["verdict"]) == ("j1", "passed")
    assert int8["fingerprint"] == int8["certificate"]["fingerprint"]
    assert (fp32["job"], fp32["certificate"]) == (None, None)
    refusal(client.get("/models/digits/engines?version=2"), 404, "version 2")


def test_an_engine_proven_on_another_host_is_listed_as_unproven_with_the_next_step(
    services: Services, serve: Callable[[Services], httpx.Client]
) -> None:
    client = serve(replace(services, host=Fingerprint("cpu", ("avx2", "avx_vnni"), "none", {"onnxruntime": "1"})))
    post_model(client)
    services.engines.publish(artifact())
    engines = {each["variant"]: each for each in client.get("/models/digits/engines").json()["engines"]}
    certificate = engines["int8-onnxruntime"]["certificate"]
    assert certificate["verdict"] == "unproven"
    assert "flags was avx2, is avx2 avx_vnni); quantize again with the same recipe" in certificate["reason"]
    assert engines["fp32-onnxruntime"]["certificate"] is None


def test_a_first_version_that_cannot_be_loaded_is_stored_all_the_same(client: httpx.Client, router: Router) -> None:
    router.failure = EngineFailed("no memory for the engine; free some")
    assert post_model(client).status_code == 201
    assert client.get("/models/digits").status_code == 200


def test_deleting_a_withdrawn_version_removes_its_rows_and_files(
    client: httpx.Client, services: Services, nothing_left: Callable[[], None]
) -> None:
    post_model(client, labels=LABELS)
    services.blobs.put_bytes(artifact().blob_key, b"engine")
    services.engines.publish(artifact())
    StoredRuntimeCaches(services.blobs).keep(content_sha256(artifact().blob_key), host_fingerprint(), b"kernels")
    services.deployments.withdraw("digits")
    answer = client.delete("/models/digits/versions/1")
    assert (answer.status_code, answer.content) == (204, b"")
    nothing_left()


def test_a_deployed_version_is_not_deleted(client: httpx.Client, services: Services) -> None:
    post_model(client)
    post_model(client, digits_model("second"))
    assert refusal(client.delete("/models/digits/versions/1"), 409, "deployed")["code"] == "in_use"
    services.deployments.put(Deployment("digits", 2, "fp32-onnxruntime"))
    assert client.delete("/models/digits/versions/1").status_code == 204


def test_a_version_that_a_job_works_on_is_not_deleted(client: httpx.Client, services: Services) -> None:
    post_model(client)
    services.deployments.withdraw("digits")
    job, _ = services.jobs.submit(quantize_request())
    refusal(client.delete("/models/digits/versions/1"), 409, job.id)
    assert services.blobs.exists(content_key(services.models.find("digits").sha256))


def test_deleting_one_of_two_models_of_the_same_bytes_keeps_the_bytes(
    client: httpx.Client, services: Services, nothing_left: Callable[[], None]
) -> None:
    for name in ("digits", "twin"):
        post_model(client, name=name, labels=LABELS)
        services.deployments.withdraw(name)
    client.delete("/models/digits/versions/1")
    assert services.blobs.exists(content_key(services.models.find("twin").sha256))
    client.delete("/models/twin/versions/1")
    nothing_left()
