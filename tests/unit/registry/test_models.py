"""What the model registry promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.domain.engine import REFERENCE_VARIANT
from service.errors import InUse, NotFound
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from tests.samples import IMAGE, LOGITS, new_model


def test_a_first_upload_is_version_1_and_deployed_as_its_reference(database: Database) -> None:
    version, created = ModelRegistry(database).add(new_model())
    assert (version.version, created, version.inputs, version.outputs) == (1, True, (IMAGE,), (LOGITS,))
    assert version.created_at.utcoffset() is not None
    deployment = DeploymentRegistry(database).find("digits")
    assert (deployment.version, deployment.stable) == (1, REFERENCE_VARIANT)
    assert [engine.variant for engine in EngineRegistry(database).list("digits")] == [REFERENCE_VARIANT]


def test_the_same_bytes_are_the_same_version(database: Database) -> None:
    models = ModelRegistry(database)
    models.add(new_model())
    again, created = models.add(new_model())
    assert (again.version, created) == (1, False)


def test_a_later_version_waits_for_a_deployment(database: Database) -> None:
    models = ModelRegistry(database)
    models.add(new_model())
    second, _ = models.add(new_model(sha256="c" * 64))
    assert second.version == 2
    assert models.find("digits").version == 2
    assert DeploymentRegistry(database).find("digits").version == 1
    assert [version.version for version in models.versions("digits")] == [1, 2]


def test_two_writers_at_once_get_two_numbers_and_one_deployment(database: Database) -> None:
    models = ModelRegistry(database)
    digests = [f"{number:064x}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda sha: models.add(new_model(sha256=sha)), digests))
    assert sorted(version.version for version, _ in added) == list(range(1, 9))
    assert DeploymentRegistry(database).find("digits").version == 1


def test_writers_of_the_same_bytes_at_once_make_one_version(database: Database) -> None:
    models = ModelRegistry(database)
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: models.add(new_model()), range(8)))
    assert [created for _, created in added].count(True) == 1
    assert {version.version for version, _ in added} == {1}


def test_a_deployed_version_cannot_be_deleted_until_it_is_withdrawn(database: Database) -> None:
    models, deployments = ModelRegistry(database), DeploymentRegistry(database)
    models.add(new_model())
    with pytest.raises(InUse, match="withdraw it with DELETE /models/digits/deployment"):
        models.delete("digits", 1)
    deployments.withdraw("digits")
    models.delete("digits", 1)
    assert models.list() == []
    assert EngineRegistry(database).list("digits") == []


def test_a_version_number_is_never_given_twice(database: Database) -> None:
    models = ModelRegistry(database)
    models.add(new_model())
    DeploymentRegistry(database).withdraw("digits")
    models.delete("digits", 1)
    assert models.add(new_model(sha256="c" * 64))[0].version == 2


def test_an_unknown_model_or_version_is_named_in_the_error(database: Database) -> None:
    models = ModelRegistry(database)
    with pytest.raises(NotFound, match="model 'nope' does not exist; GET /models"):
        models.find("nope")
    models.add(new_model())
    with pytest.raises(NotFound, match="version 7 of model 'digits'"):
        models.find("digits", 7)


def test_the_list_holds_the_newest_version_of_each_model(database: Database) -> None:
    models = ModelRegistry(database)
    for name, sha in (("b", "1"), ("a", "2"), ("b", "3")):
        models.add(new_model(name, sha * 64))
    assert [(version.name, version.version) for version in models.list()] == [("a", 1), ("b", 2)]
