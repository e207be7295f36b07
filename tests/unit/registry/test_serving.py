"""What routers are told to serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from service.domain.deployment import Deployment, ServedModel
from service.domain.engine import REFERENCE_VARIANT, EngineArtifact, Fingerprint
from service.errors import Unavailable
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from service.registry.schema import migrate
from service.registry.serving import ServingRegistry
from service.registry.tables import ENGINES
from tests.samples import artifact, new_model


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))


def wanted_digits(registry: ServingRegistry) -> ServedModel:
    found = registry.wanted()["digits"]
    assert found is not None
    return found


def test_a_deployment_comes_with_its_version_artifacts_and_labels(database: Database, blobs: Blobs) -> None:
    blobs.put_bytes("labels/1", b"zero\none\n")
    ModelRegistry(database).add(replace(new_model(), labels_key="labels/1"))
    EngineRegistry(database).publish(artifact())
    EngineRegistry(database).publish(artifact("fp16-onnxruntime", "r2"))
    DeploymentRegistry(database).put(Deployment("digits", 1, "int8-onnxruntime", "fp32-onnxruntime", 10))
    served = wanted_digits(ServingRegistry(database, blobs))
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
    assert wanted["lost"] is not None
    assert wanted["lost"].labels == ()
    assert wanted["sound"] is not None


def test_a_withdrawn_model_is_not_wanted(database: Database, blobs: Blobs) -> None:
    ModelRegistry(database).add(new_model())
    DeploymentRegistry(database).withdraw("digits")
    assert ServingRegistry(database, blobs).wanted() == {}


def test_a_change_between_the_queries_is_read_whole_or_not_at_all(database: Database, blobs: Blobs) -> None:
    for sha256 in ("a" * 64, "b" * 64):
        ModelRegistry(database).add(new_model(sha256=sha256))
    changes: list[Deployment] = []

    def change_once(*told: object) -> None:
        if not changes and "deployments" in str(told[2]):
            changes.append(Deployment("digits", 2, REFERENCE_VARIANT))
            DeploymentRegistry(database).put(changes[0])

    sa.event.listen(database.engine, "after_cursor_execute", change_once)
    registry = ServingRegistry(database, blobs)
    before, after = wanted_digits(registry), wanted_digits(registry)
    assert [(one.version.version, one.deployment.version) for one in (before, after)] == [(1, 1), (2, 2)]
    assert [one.artifacts[REFERENCE_VARIANT].version for one in (before, after)] == [1, 2]


def test_what_has_not_changed_is_not_read_again_and_what_any_process_changes_is(tmp_path: Path, blobs: Blobs) -> None:
    url = f"sqlite:///{tmp_path / 'octavo.db'}"
    database, other = Database(url), Database(url)
    migrate(database)
    ModelRegistry(database).add(new_model())
    statements: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    registry = ServingRegistry(database, blobs)
    first = registry.wanted()
    assert statements
    statements.clear()
    assert registry.wanted() is first
    assert not statements
    for changing in (database, other):
        DeploymentRegistry(changing).withdraw("digits")
        assert registry.wanted() == {}
        DeploymentRegistry(changing).put(Deployment("digits", 1, REFERENCE_VARIANT))
        assert wanted_digits(registry).deployment.stable == REFERENCE_VARIANT
    for one in (database, other):
        one.close()


def test_what_could_not_be_read_is_read_again(
    database: Database, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ModelRegistry(database).add(new_model())
    registry = ServingRegistry(database, blobs)
    with monkeypatch.context() as patched:
        patched.setattr(database, "snapshot", Mock(side_effect=Unavailable("away")))
        with pytest.raises(Unavailable):
            registry.wanted()
    assert wanted_digits(registry)


def test_a_model_whose_engines_are_not_on_record_is_told_from_one_that_is_not_deployed(
    database: Database, blobs: Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    ModelRegistry(database).add(new_model())
    with database.write() as connection:
        connection.execute(sa.delete(ENGINES))
    registry = ServingRegistry(database, blobs)
    for _ in range(3):
        assert registry.wanted() == {"digits": None}
    (line,) = caplog.records
    assert line.message == "a deployed model lacks an engine on record and goes on as it is"
    assert line.__dict__["model"] == "digits"


def test_an_unloaded_model_is_wanted_as_unloaded(database: Database, blobs: Blobs) -> None:
    ModelRegistry(database).add(new_model())
    DeploymentRegistry(database).unload("digits")
    other = Fingerprint("cpu", ("asimd",), "none", {"onnxruntime": "1"})
    for host in (None, other):
        assert not wanted_digits(ServingRegistry(database, blobs, host)).deployment.loaded


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
    wanted = wanted_digits(ServingRegistry(database, blobs, other))
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
    wanted = wanted_digits(ServingRegistry(database, blobs, OTHER))
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
    wanted = wanted_digits(served)
    assert wanted.deployment.variants == ("fp16-onnxruntime",)
    assert (wanted.deployment.canary, wanted.deployment.canary_weight) == (None, 0)
    assert wanted.notice.endswith("answers: runtime 'tensorrt' cannot run here: no GPU; buy one")


def test_on_the_host_of_its_proof_an_engine_answers(database: Database, blobs: Blobs) -> None:
    ModelRegistry(database).add(new_model())
    EngineRegistry(database).publish(artifact())
    DeploymentRegistry(database).put(Deployment("digits", 1, "int8-onnxruntime"))
    proof = artifact().fingerprint
    assert proof is not None
    wanted = wanted_digits(ServingRegistry(database, blobs, replace(proof, device="another name")))
    assert wanted.deployment.stable == "int8-onnxruntime"
    assert (wanted.unproven, wanted.notice) == ((), "")
