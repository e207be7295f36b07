"""What routers are told to serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.domain.deployment import Deployment
from service.domain.engine import REFERENCE_VARIANT, EngineArtifact, Fingerprint
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from service.registry.serving import ServingRegistry
from tests.samples import artifact, new_model


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))


def test_a_deployment_comes_with_its_version_artifacts_and_labels(database: Database, blobs: Blobs) -> None:
    blobs.put_bytes("labels/1", b"zero\none\n")
    ModelRegistry(database).add(replace(new_model(), labels_key="labels/1"))
    EngineRegistry(database).publish(artifact())
    EngineRegistry(database).publish(artifact("fp16-onnxruntime", "r2"))
    DeploymentRegistry(database).put(Deployment("digits", 1, "int8-onnxruntime", "fp32-onnxruntime", 10))
    served = ServingRegistry(database, blobs).wanted()["digits"]
    assert served.version.version == 1
    assert sorted(served.artifacts) == ["fp32-onnxruntime", "int8-onnxruntime"]
    assert served.labels == ("zero", "one")
    assert served.deployment.canary_weight == 10


def test_a_model_whose_labels_are_lost_is_served_without_them_and_holds_up_no_other(
    database: Database, blobs: Blobs
) -> None:
    ModelRegistry(database).add(replace(new_model("lost"), labels_key="labels/gone"))
    ModelRegistry(database).add(new_model("sound"))
    wanted = ServingRegistry(database, blobs).wanted()
    assert wanted["lost"].labels == ()
    assert "sound" in wanted


def test_a_withdrawn_model_is_not_wanted(database: Database, blobs: Blobs) -> None:
    ModelRegistry(database).add(new_model())
    DeploymentRegistry(database).withdraw("digits")
    assert ServingRegistry(database, blobs).wanted() == {}


def test_an_unloaded_model_is_wanted_as_unloaded(database: Database, blobs: Blobs) -> None:
    ModelRegistry(database).add(new_model())
    DeploymentRegistry(database).unload("digits")
    other = Fingerprint("cpu", ("asimd",), "none", {"onnxruntime": "1"})
    for host in (None, other):
        assert not ServingRegistry(database, blobs, host).wanted()["digits"].deployment.loaded


@pytest.mark.parametrize(
    ("deployed", "served"),
    [
        (Deployment("digits", 1, "int8-onnxruntime"), ("fp32-onnxruntime",)),
        (Deployment("digits", 1, "int8-onnxruntime", REFERENCE_VARIANT, 10), ("fp32-onnxruntime",)),
        (Deployment("digits", 1, "int8-onnxruntime", shadow=REFERENCE_VARIANT), ("fp32-onnxruntime",)),
        (Deployment("digits", 1, REFERENCE_VARIANT, "int8-onnxruntime", 10), ("fp32-onnxruntime",)),
        (
            Deployment("digits", 1, REFERENCE_VARIANT, shadow="int8-onnxruntime"),
            ("fp32-onnxruntime", "int8-onnxruntime"),
        ),
    ],
)
def test_the_reference_answers_for_what_is_not_proven_on_this_host(
    database: Database, blobs: Blobs, deployed: Deployment, served: tuple[str, ...]
) -> None:
    ModelRegistry(database).add(new_model())
    EngineRegistry(database).publish(artifact())
    wish = DeploymentRegistry(database).put(deployed)
    other = Fingerprint("cpu", ("asimd",), "none", {"onnxruntime": "1"})
    wanted = ServingRegistry(database, blobs, other).wanted()["digits"]
    assert wanted.deployment.variants == served == tuple(wanted.artifacts)
    assert wanted.deployment.revision == wish.revision
    answering = (deployed.stable, deployed.canary)
    assert [entry.variant for entry in wanted.unproven] == [name for name in answering if name == "int8-onnxruntime"]
    if wanted.unproven:
        assert "'int8-onnxruntime' is unproven on this host and the FP32 reference answers" in wanted.notice
    else:
        assert wanted.notice == ""


OTHER = Fingerprint("cpu", ("asimd",), "none", {"onnxruntime": "1", "openvino": "1"})


def proven_here(variant: str, runtime: str, precision: str) -> EngineArtifact:
    """An engine that validations have passed on the host OTHER."""
    base = replace(artifact(variant), recipe_digest=variant)
    assert base.certificate is not None
    proof = replace(base.certificate, fingerprint=OTHER)
    return replace(base, runtime=runtime, precision=precision, certificate=proof)


def test_the_best_engine_that_is_proven_here_answers_for_one_that_is_not(database: Database, blobs: Blobs) -> None:
    ModelRegistry(database).add(new_model())
    EngineRegistry(database).publish(artifact())
    EngineRegistry(database).publish(proven_here("fp16-onnxruntime", "onnxruntime", "fp16"))
    EngineRegistry(database).publish(proven_here("int8-openvino", "openvino", "int8"))
    DeploymentRegistry(database).put(Deployment("digits", 1, "int8-onnxruntime"))
    wanted = ServingRegistry(database, blobs, OTHER).wanted()["digits"]
    assert wanted.deployment.variants == ("int8-openvino",) == tuple(wanted.artifacts)
    assert [artifact.variant for artifact in wanted.fallbacks] == ["fp16-onnxruntime", "fp32-onnxruntime"]
    assert "'int8-onnxruntime' is unproven on this host and variant 'int8-openvino' answers: proven on" in wanted.notice


def test_an_engine_whose_runtime_is_missing_here_is_no_fallback_and_its_reason_says_what_is_missing(
    database: Database, blobs: Blobs
) -> None:
    ModelRegistry(database).add(new_model())
    EngineRegistry(database).publish(proven_here("int8-tensorrt", "tensorrt", "int8"))
    EngineRegistry(database).publish(proven_here("fp16-onnxruntime", "onnxruntime", "fp16"))
    DeploymentRegistry(database).put(Deployment("digits", 1, "int8-tensorrt", "fp16-onnxruntime", 10))
    served = ServingRegistry(database, blobs, OTHER, {"tensorrt": "no GPU; buy one", "onnxruntime": ""}.__getitem__)
    wanted = served.wanted()["digits"]
    assert wanted.deployment.variants == ("fp16-onnxruntime",)
    assert (wanted.deployment.canary, wanted.deployment.canary_weight) == (None, 0)
    assert wanted.notice.endswith("answers: runtime 'tensorrt' cannot run here: no GPU; buy one")


def test_on_the_host_of_its_proof_an_engine_answers(database: Database, blobs: Blobs) -> None:
    ModelRegistry(database).add(new_model())
    EngineRegistry(database).publish(artifact())
    DeploymentRegistry(database).put(Deployment("digits", 1, "int8-onnxruntime"))
    proof = artifact().fingerprint
    assert proof is not None
    wanted = ServingRegistry(database, blobs, replace(proof, device="another name")).wanted()["digits"]
    assert wanted.deployment.stable == "int8-onnxruntime"
    assert (wanted.unproven, wanted.notice) == ((), "")
