"""What POST /quantize promises."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from service.api.dependencies import Services
from service.api.request_body import MAX_JSON_BYTES
from service.api.schemas import JobBody, JobState
from service.api.schemas_requests import BudgetBody, CalibrationBody, QuantizeBody, RecipeBody
from service.domain import job, recipe
from service.domain.recipe import Budget, Recipe
from service.jobs.queue import JobQueue
from service.quantization import recipes
from service.registry.database import Database
from tests.samples import new_dataset, new_model
from tests.uploading import digits_rows, npz, post_dataset, refusal

ASKED: dict[str, Any] = {"model": "digits", "calibration": "rows", "validation": "rows"}


@pytest.fixture
def client(client: httpx.Client, services: Services) -> httpx.Client:
    """With the digits model, labelled rows of it, and rows without labels."""
    services.models.add(new_model())
    services.datasets.add(new_dataset())
    services.datasets.add(replace(new_dataset("unlabelled", "e" * 64), labels=False))
    return client


def test_a_request_answers_202_with_the_job_and_its_place(client: httpx.Client) -> None:
    answer = client.post("/quantize", json=ASKED)
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/jobs/{body['id']}"
    expected = {"kind": "quantize", "model": "digits", "version": 1, "state": "queued", "stage": None, "progress": 0.0}
    assert body.items() >= (expected | {"error": None, "result": None, "finished_at": None}).items()
    assert [stage["name"] for stage in body["stages"]] == list(job.STAGES)
    assert client.get(answer.headers["location"]).json() == body


def test_all_but_the_model_and_the_data_have_the_contracts_defaults(client: httpx.Client, services: Services) -> None:
    request = services.jobs.find(client.post("/quantize", json=ASKED).json()["id"]).request
    assert Recipe.from_json(request["recipe"]) == Recipe()
    assert (request["budget"], request["deploy"]) == ({"metric": None, "max_loss": 0.01}, "none")
    assert request["model_sha256"] == services.models.find("digits").sha256


def test_the_version_defaults_to_the_newest(client: httpx.Client, services: Services) -> None:
    services.models.add(new_model(sha256="b" * 64))
    assert client.post("/quantize", json=ASKED).json()["version"] == 2
    assert client.post("/quantize", json=ASKED | {"version": 1}).json()["version"] == 1
    refusal(client.post("/quantize", json=ASKED | {"version": 3}), 404, "version 3")


def test_every_field_of_the_contract_reaches_the_job(client: httpx.Client, services: Services) -> None:
    asked = ASKED | {
        "version": 1.0,
        "recipe": {
            "precision": "int8",
            "runtime": "onnxruntime",
            "scheme": "asymmetric",
            "granularity": "per_tensor",
            "calibration": {"method": "percentile", "rows": 3, "percentile": 99.9},
            "keep_float": ["/head/*", "op:Softmax"],
            "batch": {"min": 2, "opt": 4, "max": 6},
            "tuning": {
                "fold_batch_norm": True,
                "ranges": False,
                "equalization": False,
                "weight_clipping": True,
                "rounding": False,
                "bias_correction": True,
                "mixed_precision": False,
            },
        },
        "budget": {"metric": "top1", "max_loss": 0.02, "min_speedup": 1.25},
        "deploy": "canary",
    }
    request = services.jobs.find(client.post("/quantize", json=asked).json()["id"]).request
    assert {key: request[key] for key in asked} == asked


def test_the_same_request_twice_is_one_job_even_at_once(client: httpx.Client) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.post("/quantize", json=ASKED), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert client.post("/quantize", json=ASKED | {"version": 1}).status_code == 200


def test_the_same_words_over_other_bytes_are_another_job(client: httpx.Client, services: Services) -> None:
    first = client.post("/quantize", json=ASKED).json()
    services.jobs.cancel(first["id"])
    services.datasets.delete("rows")
    services.datasets.add(new_dataset(sha256="f" * 64))
    second = client.post("/quantize", json=ASKED).json()
    assert second["id"] != first["id"]
    assert second["request"]["calibration_sha256"] != first["request"]["calibration_sha256"]


def test_auto_is_another_job_where_another_runtime_was_installed_meanwhile(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(runtime: str, *installed: str) -> str:
        monkeypatch.setattr(recipes, "available_runtimes", lambda: installed)
        return str(client.post("/quantize", json=ASKED | {"recipe": {"runtime": runtime}}).json()["id"])

    alone = asked("auto", "onnxruntime")
    assert asked("auto", "onnxruntime", "openvino") not in (alone, asked("openvino", "onnxruntime", "openvino"))
    assert asked("auto", "onnxruntime") == alone
    named = asked("onnxruntime", "onnxruntime")
    assert asked("onnxruntime", "onnxruntime", "openvino") == named


def test_an_idempotency_key_finds_its_job_and_refuses_another_request(client: httpx.Client) -> None:
    first = client.post("/quantize", json=ASKED, headers={"idempotency-key": "key-1"})
    again = client.post("/quantize", json=ASKED, headers={"idempotency-key": "key-1"})
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = client.post("/quantize", json=ASKED | {"deploy": "promote"}, headers={"idempotency-key": "key-1"})
    assert refusal(other, 409, "'key-1'", "another key")["code"] == "conflict"


def test_a_key_answers_its_job_though_the_model_and_the_data_have_changed_since(
    client: httpx.Client, services: Services
) -> None:
    headers = {"idempotency-key": "key-1"}
    first = client.post("/quantize", json=ASKED | {"recipe": {"precision": "fp16"}}, headers=headers)
    services.jobs.cancel(first.json()["id"])
    services.models.add(new_model(sha256="b" * 64))
    assert client.delete("/datasets/rows").status_code == 204
    again = client.post("/quantize", json=ASKED | {"recipe": {"precision": "fp16"}}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


@pytest.mark.parametrize("key", ["", "with space", "k" * 256, "caf\u00e9"])
def test_an_idempotency_key_out_of_bounds_is_refused(client: httpx.Client, key: str) -> None:
    answer = client.post("/quantize", json=ASKED, headers=[(b"idempotency-key", key.encode("latin-1"))])
    refusal(answer, 422, "idempotency-key")
    assert client.get("/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour is not a known field"),
        ({"recipe": {"speed": 9}}, "recipe.speed is not a known field"),
        ({"recipe": {"calibration": {"images": 9}}}, "recipe.calibration.images is not a known field"),
        ({"recipe": {"precision": "int3"}}, "recipe.precision is 'int3'"),
        ({"recipe": {"precision": "int8", "scheme": "odd"}}, "recipe.scheme is 'odd'"),
        ({"recipe": {"granularity": 4}}, "recipe.granularity is 4"),
        ({"recipe": {"around": "int4"}}, "recipe.around is 'int4'"),
        ({"recipe": {"weights": "thin"}}, "recipe.weights is 'thin'"),
        ({"recipe": {"sparsity": "4:8"}}, "recipe.sparsity is '4:8'"),
        ({"recipe": {"sparsity": "2:4"}}, "which runtime 'auto' does not have"),
        ({"recipe": {"around": "fp16"}}, "INT8 of runtime 'auto' has FP32 around it"),
        ({"recipe": {"runtime": "tvm"}}, "recipe.runtime is 'tvm'"),
        ({"recipe": {"precision": "bf16", "runtime": "onnxruntime"}}, "its CPU provider has no BF16 kernels"),
        ({"recipe": {"calibration": {"method": "guess"}}}, "recipe.calibration.method is 'guess'"),
        ({"recipe": {"calibration": {"rows": 0}}}, "recipe.calibration.rows is 0"),
        ({"recipe": {"calibration": {"rows": 100_001}}}, "recipe.calibration.rows is 100001"),
        ({"recipe": {"calibration": {"rows": "8"}}}, "recipe.calibration.rows is '8'"),
        ({"recipe": {"calibration": {"percentile": 101}}}, "recipe.calibration.percentile is 101"),
        ({"recipe": {"keep_float": [""]}}, "recipe.keep_float.0 is ''"),
        ({"recipe": {"keep_float": ["x"] * 257}}, "recipe.keep_float"),
        ({"recipe": {"keep_float": ["\n"]}}, "keep_float"),
        ({"recipe": {"batch": {"min": 4, "opt": 2, "max": 8}}}, "min 4, opt 2, max 8"),
        ({"recipe": {"batch": {"max": 1_000_000}}}, "recipe.batch.max is 1000000"),
        ({"budget": {"metric": "vibes"}}, "budget.metric is 'vibes'"),
        ({"budget": {"max_loss": -1}}, "budget.max_loss is -1"),
        ({"budget": {"max_loss": True}}, "budget.max_loss is True"),
        ({"budget": {"min_speedup": 0}}, "budget.min_speedup is 0"),
        ({"budget": {"min_speedup": "fast"}}, "budget.min_speedup is 'fast'"),
        ({"budget": {"min_speedup": 1e9}}, "budget.min_speedup is 1000000000.0"),
        ({"deploy": "now"}, "deploy is 'now'"),
        ({"version": 0}, "version is 0"),
        ({"version": 2**40}, str(2**40)),
        ({"model": "../x"}, "'../x'"),
        ({"model": 7}, "model is 7"),
        ({"calibration": "a/b"}, "'a/b'"),
        ({"calibration": None}, "no calibration set is named"),
        ({"validation": "unlabelled", "budget": {"metric": "top1"}}, "'unlabelled' has no labels"),
        ({"validation": "unlabelled", "budget": {"metric": "top5"}}, "'unlabelled' has no labels"),
    ],
)
def test_a_wrong_value_is_refused_and_named(client: httpx.Client, change: dict[str, Any], words: str) -> None:
    refusal(client.post("/quantize", json=ASKED | change), 422, words)
    assert client.get("/jobs").json()["jobs"] == []


def test_a_runtime_that_is_not_installed_is_refused_with_the_way_to_it(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    answer = client.post("/quantize", json=ASKED | {"recipe": {"runtime": "openvino"}})
    body = refusal(answer, 422, "runtime is 'openvino'", "not installed here", "pip install 'octavo[openvino]'")
    assert body["code"] == "invalid_recipe"
    assert client.get("/jobs").json()["jobs"] == []


def test_a_missing_model_or_dataset_answers_404(client: httpx.Client) -> None:
    refusal(client.post("/quantize", json=ASKED | {"model": "nope"}), 404, "'nope'")
    refusal(client.post("/quantize", json=ASKED | {"calibration": "nope"}), 404, "'nope'")
    refusal(client.post("/quantize", json=ASKED | {"validation": "nope"}), 404, "'nope'")
    refusal(client.post("/quantize", json={"calibration": "rows"}), 422, "model is missing")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (npz(picture=digits_rows()), "no array 'input', only picture"),
        (npz(input=digits_rows().astype(np.float16)), "FP16 but the model's input is FP32"),
        (npz(input=np.ones((3, 1, 9, 9), np.float32)), "[1, 9, 9]"),
    ],
)
def test_a_dataset_that_does_not_fit_the_model_is_refused(client: httpx.Client, rows: bytes, words: str) -> None:
    post_dataset(client, rows, name="other")
    answer = client.post("/quantize", json=ASKED | {"calibration": "other"})
    body = refusal(answer, 422, "the 'other' calibration set", words)
    assert body["code"] == "invalid_dataset"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"[" * 100_000, b"\xff\xfe", b"null"])
def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/quantize", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "code"}


def test_a_body_over_its_limit_is_refused(client: httpx.Client) -> None:
    refusal(client.post("/quantize", content=b" " * (MAX_JSON_BYTES + 1)), 413, str(MAX_JSON_BYTES))
    refusal(client.post("/quantize", content=iter([b" " * 65536] * 8)), 413, str(MAX_JSON_BYTES))


def test_a_full_queue_is_refused_and_says_what_to_do(
    client: httpx.Client, services: Services, database: Database, serve: Callable[[Services], httpx.Client]
) -> None:
    queue = JobQueue(database, max_unfinished=1)
    full = serve(replace(services, jobs=queue))
    assert full.post("/quantize", json=ASKED).status_code == 202
    answer = full.post("/quantize", json=ASKED | {"deploy": "promote"})
    assert refusal(answer, 429, "1 jobs", "OCTAVO_MAX_QUEUED_JOBS")["code"] == "queue_full"
    assert answer.headers["retry-after"]
    assert full.post("/quantize", json=ASKED).status_code == 200
    queue.close()


def test_the_words_of_the_body_are_those_of_the_domain() -> None:
    assert get_args(RecipeBody.model_fields["precision"].annotation) == recipe.PRECISIONS
    assert get_args(RecipeBody.model_fields["scheme"].annotation) == recipe.SCHEMES
    assert get_args(RecipeBody.model_fields["granularity"].annotation) == recipe.GRANULARITIES
    assert get_args(RecipeBody.model_fields["weights"].annotation) == recipe.WEIGHTS
    assert get_args(RecipeBody.model_fields["sparsity"].annotation) == recipe.SPARSITIES
    assert set(get_args(RecipeBody.model_fields["runtime"].annotation)) == set(recipe.RUNTIMES)
    assert get_args(CalibrationBody.model_fields["method"].annotation) == recipe.METHODS
    assert get_args(get_args(BudgetBody.model_fields["metric"].annotation)[0]) == recipe.METRICS
    assert get_args(QuantizeBody.model_fields["deploy"].annotation) == recipe.DEPLOY_MODES
    assert get_args(JobState) == job.STATES


def test_the_defaults_of_the_body_are_those_of_the_domain() -> None:
    assert RecipeBody().to_domain() == Recipe()
    assert BudgetBody().to_domain() == Budget()
    assert set(JobBody.model_fields) <= set(job.Job.__dataclass_fields__)
