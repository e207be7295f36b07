"""What a job leaves: an engine that could not run has no role, and no weaker proof takes a stronger one's place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.domain.job import Job
from service.domain.recipe import QuantizeRequest
from service.errors import NotFound, StageFailed
from service.jobs.publication import Publication
from service.jobs.queue import JobQueue
from service.quantization.atomic_files import write_json
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from service.registry.runtime_caches import StoredRuntimeCaches
from tests.report_figures import figures
from tests.samples import certificate, new_model, quantize_request

UNPROVEN = replace(certificate("unproven"), loss=None, reason="no NVIDIA device on this host; install a driver")


@pytest.fixture
def publication(database: Database, tmp_path: Path) -> Publication:
    ModelRegistry(database).add(new_model())
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))
    return Publication(database, blobs, EngineRegistry(database), DeploymentRegistry(database))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    for name in ("engine.plan", "report.html", "converted.onnx"):
        (made / name).write_text(name)
    write_json(made / "report.json", figures())
    return made


def gate(verdict: str = "unproven", sha256: str = "e" * 64) -> dict[str, Any]:
    proof = UNPROVEN if verdict == "unproven" else certificate(verdict)
    return {
        "verdict": verdict, "variant": "int8-tensorrt", "certificate": proof.to_json(), "runtime": "tensorrt",
        "precision": "int8", "sha256": sha256, "size_bytes": 11, "batch_max": 4, "engine_file": "engine.plan",
        "emitted_file": "converted.onnx",
    }  # fmt: skip


def job_of(database: Database, request: QuantizeRequest) -> Job:
    return JobQueue(database, 10).submit(request)[0]


def test_an_unproven_engine_is_stored_and_deployed_nowhere(
    database: Database, publication: Publication, folder: Path
) -> None:
    job = job_of(database, quantize_request(deploy="promote"))
    outcome = publication.publish(job, gate(), folder)
    assert outcome["state"] == "succeeded"
    assert outcome["result"]["deployment"] is None
    assert "cannot be stable: it was built and has not run" in outcome["result"]["deployment_error"]["error"]
    assert [found.variant for found in publication.engines.never_ran()] == ["int8-tensorrt"]
    assert publication.deployments.find("digits").stable == "fp32-onnxruntime"
    assert publication.blobs.read_bytes(f"jobs/{job.id}/converted.onnx") == b"converted.onnx"


@pytest.mark.parametrize("mode", ["promote", "canary", "shadow"])
def test_a_job_that_is_published_again_leaves_what_was_deployed_since(
    database: Database, publication: Publication, folder: Path, mode: str
) -> None:
    job = job_of(database, quantize_request(deploy=mode))
    first = publication.publish(job, gate("passed"), folder)
    assert first["result"]["deployment"] is not None
    rolled_back = publication.deployments.rollback("digits")
    assert publication.publish(job, gate("passed"), folder) == first
    assert publication.deployments.find("digits") == rolled_back
    publication.deployments.withdraw("digits")
    assert publication.publish(job, gate("passed"), folder) == first
    with pytest.raises(NotFound, match="is not deployed"):
        publication.deployments.find("digits")


def test_a_job_that_could_not_deploy_may_when_it_is_published_again(
    database: Database, publication: Publication, folder: Path
) -> None:
    job = job_of(database, quantize_request(deploy="canary"))
    publication.deployments.withdraw("digits")
    refused = publication.publish(job, gate("passed"), folder)["result"]
    assert (refused["deployment"], refused["deployment_error"]["code"]) == (None, "not_found")
    publication.deployments.load("digits")
    made = publication.publish(job, gate("passed"), folder)["result"]["deployment"]
    assert made["canary"] == {"variant": "int8-tensorrt", "weight": 10}


def test_each_job_deploys_once_for_itself(database: Database, publication: Publication, folder: Path) -> None:
    for precision in ("int8", "fp16"):
        publication.publish(job_of(database, quantize_request(precision, deploy="promote")), gate("passed"), folder)
        assert publication.deployments.rollback("digits").stable == "fp32-onnxruntime"


def test_what_validation_compiled_is_kept_for_loads_on_its_kind_of_host(
    database: Database, publication: Publication, folder: Path
) -> None:
    (folder / "runtime.cache").write_bytes(b"kernels")
    publication.publish(job_of(database, quantize_request()), gate("passed"), folder)
    stored, host = StoredRuntimeCaches(publication.blobs), certificate("passed").fingerprint
    assert stored.read("e" * 64, host) == b"kernels"
    assert stored.read("e" * 64, replace(host, driver="other")) is None


def test_compiled_kernels_that_cannot_be_stored_cost_no_job(
    database: Database, publication: Publication, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "runtime.cache").mkdir()
    outcome = publication.publish(job_of(database, quantize_request()), gate("passed"), folder)
    assert outcome["state"] == "succeeded"
    assert "compiled kernels are not stored" in caplog.text


def test_a_report_names_the_engine_as_it_was_published(
    database: Database, publication: Publication, folder: Path
) -> None:
    publication.publish(job_of(database, quantize_request()), gate("passed"), folder)
    request = quantize_request()
    other = job_of(database, replace(request, recipe=replace(request.recipe, scheme="symmetric")))
    for _ in range(2):
        variant = publication.publish(other, gate("passed"), folder)["result"]["variant"]
        assert variant.startswith("int8-tensorrt-")
        report = json.loads(publication.blobs.read_bytes(f"jobs/{other.id}/report.json"))
        assert (report["variant"], report["engine"]["variant"]) == (variant, variant)
        assert f"</span> {variant}</h1>" in publication.blobs.read_bytes(f"jobs/{other.id}/report.html").decode()


def test_a_proven_engine_of_the_recipe_stays_and_the_job_says_so(
    database: Database, publication: Publication, folder: Path
) -> None:
    publication.publish(job_of(database, quantize_request()), gate("passed", "f" * 64), folder)
    again = job_of(database, quantize_request(deploy="promote"))
    outcome = publication.publish(again, gate(), folder)
    assert outcome["state"] == "succeeded"
    assert outcome["result"]["deployment"] is None
    assert "stays the engine that job" in outcome["result"]["deployment_error"]["error"]
    assert publication.engines.find("digits", 1, "int8-tensorrt").sha256 == "f" * 64


def test_a_job_that_is_to_prove_an_engine_fails_where_it_cannot_run(
    database: Database, publication: Publication, folder: Path
) -> None:
    job = job_of(database, replace(quantize_request(), host="h" * 64))
    with pytest.raises(
        StageFailed, match=r"came to a worker that cannot: no NVIDIA device.*; run octavo work on hosts"
    ):
        publication.publish(job, gate(), folder)
    assert publication.engines.never_ran() == ()


def test_a_verdict_on_another_models_bytes_is_not_published(
    database: Database, publication: Publication, folder: Path
) -> None:
    job = job_of(database, quantize_request())
    seen = gate("passed")
    seen["certificate"]["model_sha256"] = "9" * 64
    with pytest.raises(StageFailed, match=r"model 'digits' was changed: .* beside SHA-256 9+, not a+; upload"):
        publication.publish(job, seen, folder)
    seen["certificate"]["model_sha256"] = "a" * 64
    assert publication.publish(job, seen, folder)["state"] == "succeeded"


def proven_on(independent: bool | None, sha256: str = "e" * 64, **fields: Any) -> dict[str, Any]:
    """A gate that passed, on rows that calibration has seen or not."""
    proof = replace(certificate("passed"), independent=independent, reason=f"independent: {independent}", **fields)
    return gate("passed", sha256) | {"certificate": proof.to_json()}


@pytest.mark.parametrize("earlier", [True, None])
def test_a_certificate_by_independent_rows_is_not_replaced_by_one_on_rows_that_calibration_saw(
    database: Database, publication: Publication, folder: Path, earlier: bool | None
) -> None:
    first = job_of(database, quantize_request())
    publication.publish(first, proven_on(earlier), folder)
    second = job_of(database, quantize_request(deploy="promote"))
    outcome = publication.publish(second, proven_on(False), folder)
    assert outcome == publication.publish(second, proven_on(False), folder)
    result = outcome["result"]
    assert (outcome["state"], result["certificate"]["independent"]) == ("succeeded", False)
    assert f"keeps the certificate that job {first.id} gave the same bytes" in result["certificate_kept"]
    assert result["report"] == f"/jobs/{second.id}/report"
    stored = publication.engines.find("digits", 1, "int8-tensorrt")
    assert stored.job == first.id
    assert stored.certificate is not None
    assert stored.certificate.independent is earlier
    # The bytes are those that were asked for, so they serve.
    assert publication.deployments.find("digits").stable == "int8-tensorrt"


ELSEWHERE = replace(certificate().fingerprint, flags=("avx512f",), libraries={"tensorrt": "2"})


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (proven_on(True), proven_on(True)),
        (proven_on(False), proven_on(False)),
        (proven_on(False), proven_on(True)),
        (proven_on(True), proven_on(False, "f" * 64)),
        (proven_on(True, fingerprint=ELSEWHERE), proven_on(False)),
    ],
    ids=["as good", "as weak", "better", "other bytes", "another kind of host"],
)
def test_a_later_certificate_replaces_one_that_it_is_no_weaker_than_or_that_holds_for_other_bytes_or_hosts(
    database: Database, publication: Publication, folder: Path, earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    publication.publish(job_of(database, quantize_request()), earlier, folder)
    second = job_of(database, quantize_request(deploy="promote"))
    result = publication.publish(second, later, folder)["result"]
    assert "certificate_kept" not in result
    assert publication.engines.find("digits", 1, "int8-tensorrt").job == second.id
