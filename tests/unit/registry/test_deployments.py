"""What the deployment and engine registries promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.batching import Batching, Padding
from service.domain.deployment import Deployment
from service.domain.engine import REFERENCE_VARIANT, Fingerprint
from service.errors import Conflict, NotFound, Unproven
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from tests.samples import artifact, new_model

INT8 = "int8-onnxruntime"


@pytest.fixture
def deployments(database: Database) -> DeploymentRegistry:
    ModelRegistry(database).add(new_model())
    EngineRegistry(database).publish(artifact())
    return DeploymentRegistry(database)


def test_each_change_raises_the_revision_and_no_change_keeps_it(deployments: DeploymentRegistry) -> None:
    first = deployments.put(Deployment("digits", 1, INT8))
    assert first.revision == 2
    assert deployments.put(Deployment("digits", 1, INT8)) == first
    assert deployments.find("digits") == first


def test_a_promoted_canary_becomes_stable(deployments: DeploymentRegistry) -> None:
    deployments.put(Deployment("digits", 1, REFERENCE_VARIANT, INT8, 10))
    promoted = deployments.promote("digits")
    assert (promoted.stable, promoted.canary, promoted.canary_weight) == (INT8, None, 0)


def test_promotion_without_a_canary_is_a_conflict(deployments: DeploymentRegistry) -> None:
    with pytest.raises(Conflict, match="no canary to promote"):
        deployments.promote("digits")


def test_a_rollback_restores_what_served_before_and_a_second_one_undoes_it(deployments: DeploymentRegistry) -> None:
    deployments.put(Deployment("digits", 1, INT8))
    assert deployments.rollback("digits").stable == REFERENCE_VARIANT
    assert deployments.rollback("digits").stable == INT8


def test_only_what_was_asked_for_last_is_taken_back(deployments: DeploymentRegistry) -> None:
    failed = deployments.put(Deployment("digits", 1, INT8))
    deployments.put(Deployment("digits", 1, REFERENCE_VARIANT, INT8, 10))
    with pytest.raises(Conflict, match="revision 2 of model 'digits' cannot be taken back"):
        deployments.take_back(failed)
    deployments.withdraw("digits")
    with pytest.raises(NotFound, match="not deployed"):
        deployments.take_back(failed)
    deployments.put(Deployment("digits", 1, INT8))
    assert deployments.put(Deployment("digits", 1, REFERENCE_VARIANT)).revision == failed.revision
    with pytest.raises(Conflict, match="cannot be taken back"):
        deployments.take_back(failed)


def test_a_deployment_that_is_only_loaded_again_has_nothing_to_go_back_to(deployments: DeploymentRegistry) -> None:
    deployments.put(Deployment("digits", 1, INT8))
    deployments.unload("digits")
    loaded = deployments.put(Deployment("digits", 1, INT8))
    assert loaded.loaded
    with pytest.raises(Conflict, match="cannot be taken back"):
        deployments.take_back(loaded)


def test_a_rollback_of_a_first_deployment_is_a_conflict(deployments: DeploymentRegistry) -> None:
    with pytest.raises(Conflict, match="no earlier deployment"):
        deployments.rollback("digits")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Deployment("digits", 1, "fp16-tensorrt"), "lacks variant 'fp16-tensorrt', has: fp32-onnxruntime, int8-onnx"),
        (Deployment("digits", 9, INT8), "version 9 of model 'digits' does not exist"),
        (Deployment("nope", 1, INT8), "version 1 of model 'nope' does not exist"),
    ],
)
def test_what_does_not_exist_cannot_be_deployed(
    deployments: DeploymentRegistry, wanted: Deployment, words: str
) -> None:
    with pytest.raises(NotFound, match=words):
        deployments.put(wanted)


@pytest.mark.parametrize(
    ("role", "wanted"),
    [
        ("stable", Deployment("digits", 1, "int8-tensorrt")),
        ("canary", Deployment("digits", 1, INT8, "int8-tensorrt", 5)),
        ("shadow", Deployment("digits", 1, INT8, shadow="int8-tensorrt")),
    ],
)
def test_an_engine_that_never_ran_takes_no_role(
    deployments: DeploymentRegistry, database: Database, role: str, wanted: Deployment
) -> None:
    EngineRegistry(database).publish(artifact("int8-tensorrt", "r2", "unproven"))
    words = f"is unproven and cannot be {role}: it was built and has not run .*; start octavo serve and octavo work on"
    with pytest.raises(Unproven, match=words):
        deployments.put(wanted)


def test_an_engine_that_never_ran_does_not_replace_a_proven_one_of_its_recipe(
    deployments: DeploymentRegistry, database: Database
) -> None:
    engines = EngineRegistry(database)
    never_ran = replace(artifact("int8-tensorrt", "r2", "unproven"), runtime="tensorrt", sha256="1" * 64)
    engines.publish(never_ran)
    assert [found.sha256 for found in engines.never_ran()] == ["1" * 64]
    proven = engines.publish(replace(artifact("int8-tensorrt", "r2"), runtime="tensorrt", sha256="2" * 64))
    assert engines.never_ran() == ()
    assert engines.publish(never_ran) == proven
    assert engines.find("digits", 1, "int8-tensorrt").sha256 == "2" * 64


def test_a_canary_that_is_the_stable_variant_is_a_conflict(deployments: DeploymentRegistry) -> None:
    with pytest.raises(Conflict, match="is the stable variant already"):
        deployments.put(Deployment("digits", 1, INT8, INT8, 5))


def test_another_recipe_of_a_taken_name_gets_its_digest_and_the_same_recipe_replaces(
    deployments: DeploymentRegistry, database: Database
) -> None:
    engines = EngineRegistry(database)
    other = engines.publish(artifact(digest="q2"))
    assert other.variant == f"{INT8}-q2q2q2q2"
    assert engines.publish(artifact(digest="q2")).variant == other.variant
    assert engines.publish(artifact(digest="r1")).variant == INT8


def test_a_recipe_that_another_runtime_wins_leaves_the_first_ones_engine(database: Database) -> None:
    ModelRegistry(database).add(new_model())
    engines = EngineRegistry(database)
    gpu = engines.publish(replace(artifact("int8-onnxruntime-cuda"), runtime="onnxruntime-cuda", sha256="2" * 64))
    assert engines.publish(artifact()).variant == INT8
    assert engines.find("digits", 1, "int8-onnxruntime-cuda").sha256 == gpu.sha256
    assert len(engines.list("digits", 1)) == 3
    assert engines.find("digits", 1, INT8).certificate == artifact().certificate


def test_an_engine_proven_on_another_kind_of_host_may_shadow_but_not_answer(database: Database) -> None:
    ModelRegistry(database).add(new_model())
    EngineRegistry(database).publish(artifact())
    here = Fingerprint("cpu", ("avx2", "avx512_vnni"), "none", {"onnxruntime": "1"})
    deployments = DeploymentRegistry(database, here)
    with pytest.raises(Unproven, match=r"flags was avx2, is avx2 avx512_vnni\); quantize again with the same recipe"):
        deployments.put(Deployment("digits", 1, INT8))
    with pytest.raises(Unproven, match="cannot be canary"):
        deployments.put(Deployment("digits", 1, REFERENCE_VARIANT, INT8, 5))
    assert deployments.put(Deployment("digits", 1, REFERENCE_VARIANT, shadow=INT8)).shadow == INT8


def test_a_canary_that_lost_its_proof_is_not_promoted_and_what_served_before_can_be_restored(
    deployments: DeploymentRegistry, database: Database
) -> None:
    deployments.put(Deployment("digits", 1, INT8))
    deployments.put(Deployment("digits", 1, REFERENCE_VARIANT, INT8, 10))
    moved = DeploymentRegistry(database, Fingerprint("cpu", ("avx2",), "none", {"onnxruntime": "2"}))
    with pytest.raises(Unproven, match="onnxruntime was 1, is 2"):
        moved.promote("digits")
    assert moved.rollback("digits").stable == INT8


def test_unload_and_load_change_the_revision_once_and_what_is_deployed_never(deployments: DeploymentRegistry) -> None:
    first = deployments.put(Deployment("digits", 1, REFERENCE_VARIANT, INT8, 10))
    unloaded = deployments.unload("digits")
    assert unloaded == replace(first, loaded=False, revision=first.revision + 1)
    assert deployments.unload("digits") == unloaded == deployments.find("digits")
    loaded = deployments.load("digits")
    assert loaded == replace(first, revision=first.revision + 2)
    assert deployments.load("digits") == loaded


def test_a_rollback_undoes_the_last_change_of_what_is_deployed_and_no_unload(deployments: DeploymentRegistry) -> None:
    deployments.unload("digits")
    deployments.put(Deployment("digits", 1, INT8))
    deployments.unload("digits")
    earlier = deployments.rollback("digits")
    assert (earlier.stable, earlier.loaded) == (REFERENCE_VARIANT, False)
    assert deployments.rollback("digits").stable == INT8


def test_a_deployment_is_loaded_by_whatever_changes_it_unless_it_says_otherwise(
    deployments: DeploymentRegistry,
) -> None:
    deployments.put(Deployment("digits", 1, REFERENCE_VARIANT, INT8, 10))
    deployments.unload("digits")
    assert deployments.promote("digits").loaded
    assert not deployments.put(Deployment("digits", 1, INT8, loaded=False)).loaded
    assert deployments.put(Deployment("digits", 1, INT8)).loaded
    assert deployments.rollback("digits").stable == REFERENCE_VARIANT


def test_loading_what_was_withdrawn_deploys_the_reference_of_its_newest_version(
    deployments: DeploymentRegistry, database: Database
) -> None:
    ModelRegistry(database).add(new_model(sha256="c" * 64))
    deployments.withdraw("digits")
    with pytest.raises(NotFound, match="failed to unload 'digits', it is not deployed"):
        deployments.unload("digits")
    loaded = deployments.load("digits")
    assert (loaded.version, loaded.stable, loaded.loaded) == (2, REFERENCE_VARIANT, True)
    with pytest.raises(NotFound, match="failed to load 'nope', there is no such model; upload it"):
        deployments.load("nope")


def test_batching_is_kept_over_every_change_of_the_routes_and_raises_the_revision(
    deployments: DeploymentRegistry,
) -> None:
    wished = Batching(preferred_batch_rows=(4, 8), padding=Padding((16, 32), (("ids", 1.0),)))
    before = deployments.find("digits").revision
    assert deployments.set_batching("digits", wished)[0].revision == before + 1
    assert deployments.set_batching("digits", wished)[0].revision == before + 1, "an equal one changes nothing"
    assert deployments.put(Deployment("digits", 1, INT8)).batching == wished
    assert deployments.rollback("digits").batching == wished
    assert deployments.unload("digits").batching == wished
    assert deployments.find("digits").batching == wished


def test_batching_that_failed_is_taken_back_over_a_newer_deployment_but_not_over_what_another_set(
    deployments: DeploymentRegistry,
) -> None:
    failed, newer = Batching(padding=Padding((4,))), Batching(max_queue_rows=8)
    _, before = deployments.set_batching("digits", failed)
    deployments.put(Deployment("digits", 1, INT8))
    deployments.take_back_batching("digits", failed, before)
    assert deployments.find("digits").batching == before == Batching()
    deployments.set_batching("digits", failed)
    assert deployments.set_batching("digits", newer)[1] == failed
    deployments.take_back_batching("digits", failed, before)
    assert deployments.find("digits").batching == newer


def test_batching_of_what_is_not_deployed_is_not_found(deployments: DeploymentRegistry) -> None:
    with pytest.raises(NotFound, match="'none' is not deployed"):
        deployments.set_batching("none", Batching())
    with pytest.raises(NotFound, match="'none' is not deployed"):
        deployments.take_back_batching("none", Batching(), Batching())
