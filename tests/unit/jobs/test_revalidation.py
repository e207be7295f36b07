"""An engine without proof on this host is built and validated again: one job, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.domain.deployment import Deployment, ServedModel
from service.domain.engine import GPU_RUNTIMES, EngineArtifact, Fingerprint, Gpu
from service.domain.recipe import Budget
from service.jobs.queue import JobQueue
from service.jobs.revalidation import Revalidation
from service.metrics import REGISTRY
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from service.registry.serving import ServingRegistry
from tests.samples import artifact, new_dataset, new_model, quantize_request

GPU = Gpu("RTX A", "8.6", "13.0")
HERE = Fingerprint("cpu", ("avx512_vnni",), "none", {"onnxruntime": "1"})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wanted(database: Database, tmp_path: Path) -> list[ServedModel]:
    """One model whose stable engine was proven on another host by a job that is on record, and whose rows are."""
    ModelRegistry(database).add(new_model())
    DatasetRegistry(database).add(new_dataset())
    request = replace(quantize_request(deploy="promote"), budget=Budget("top1", 0.01, min_speedup=1.5))
    job, _ = JobQueue(database, 10).submit(request)
    EngineRegistry(database).publish(replace(artifact(), job=job.id))
    DeploymentRegistry(database).put(Deployment("digits", 1, "int8-onnxruntime"))
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))
    return [served for served in ServingRegistry(database, blobs, HERE).wanted().values() if served is not None]


def unproven() -> float | None:
    labels = {"model": "digits", "version": "1", "variant": "int8-onnxruntime"}
    return REGISTRY.get_sample_value("octavo_engines_unproven", labels)


def test_the_job_that_built_it_is_asked_for_again_for_this_host(database: Database, wanted: list[ServedModel]) -> None:
    queue = JobQueue(database, 10)
    revalidation = Revalidation(queue, DatasetRegistry(database), HERE)
    for _ in range(3):
        revalidation.follow(wanted)
    newest, first = queue.list()
    # What answers already is to be right; how fast, was asked where it was built.
    budget = {"metric": "top1", "max_loss": 0.01}
    assert newest.request == first.request | {"deploy": "none", "host": newest.request["host"], "budget": budget}
    assert unproven() == 1


def test_another_server_of_the_same_kind_finds_that_job(database: Database, wanted: list[ServedModel]) -> None:
    queue = JobQueue(database, 10)
    Revalidation(queue, DatasetRegistry(database), HERE).follow(wanted)
    Revalidation(queue, DatasetRegistry(database), replace(HERE, device="same flags, other name")).follow(wanted)
    assert len(queue.list()) == 2
    Revalidation(queue, DatasetRegistry(database), replace(HERE, flags=())).follow(wanted)
    assert len(queue.list()) == 3


def test_a_full_queue_is_asked_again_later(database: Database, wanted: list[ServedModel]) -> None:
    clock, full = Clock(), JobQueue(database, 1)
    revalidation = Revalidation(full, DatasetRegistry(database), HERE, clock=clock)
    revalidation.follow(wanted)
    assert len(full.list()) == 1
    full.cancel(full.list()[0].id)
    revalidation.follow(wanted)
    assert len(full.list()) == 1
    clock.now = 61.0
    revalidation.follow(wanted)
    assert len(full.list()) == 2


@pytest.mark.parametrize("replaced", [False, True])
def test_an_engine_whose_rows_are_gone_or_replaced_is_not_judged_on_others(
    database: Database, wanted: list[ServedModel], caplog: pytest.LogCaptureFixture, replaced: bool
) -> None:
    clock, queue, datasets = Clock(), JobQueue(database, 10), DatasetRegistry(database)
    queue.cancel(queue.list()[0].id)
    datasets.delete("rows")
    if replaced:
        datasets.add(new_dataset(sha256="e" * 64))
    revalidation = Revalidation(queue, datasets, HERE, clock=clock)
    revalidation.follow(wanted)
    assert len(queue.list()) == 1
    assert unproven() == 1
    said = str(caplog.records[-1].__dict__["error"])
    assert ("holds other rows than those that the engine was judged on" if replaced else "does not exist") in said
    if replaced:
        datasets.delete("rows")
    datasets.add(new_dataset())
    clock.now = 61.0
    revalidation.follow(wanted)
    assert len(queue.list()) == 2


def test_an_engine_that_no_job_built_is_left_and_counted(database: Database, wanted: list[ServedModel]) -> None:
    queue = JobQueue(database, 10)
    lost = [replace(served, unproven=(replace(served.unproven[0], job=None),)) for served in wanted]
    Revalidation(queue, DatasetRegistry(database), HERE).follow(lost)
    assert len(queue.list()) == 1
    assert unproven() == 1


def test_what_is_proven_again_is_counted_no_more(database: Database, wanted: list[ServedModel]) -> None:
    revalidation = Revalidation(JobQueue(database, 10), DatasetRegistry(database), HERE)
    revalidation.follow(wanted)
    revalidation.follow([replace(served, unproven=()) for served in wanted])
    assert unproven() is None


def never_ran(database: Database, runtime: str = "tensorrt") -> EngineArtifact:
    """An engine that a job on record built on a host that could not run it; nothing of it is deployed."""
    job, _ = JobQueue(database, 10).submit(quantize_request("fp16", deploy="promote"))
    waiting = artifact(f"fp16-{runtime}", "r3", "unproven")
    return EngineRegistry(database).publish(replace(waiting, runtime=runtime, job=job.id))


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
def test_a_host_with_a_gpu_validates_what_was_built_without_one(
    database: Database, wanted: list[ServedModel], runtime: str
) -> None:
    waiting, queue = never_ran(database, runtime), JobQueue(database, 10)
    with_gpu = replace(HERE, gpu=GPU)
    for _ in range(2):
        Revalidation(queue, DatasetRegistry(database), with_gpu, EngineRegistry(database).never_ran).follow([])
    asked = [job for job in queue.list() if job.request.get("host")]
    assert len(asked) == 1
    assert waiting.job is not None
    assert asked[0].request == queue.find(waiting.job).request | {"deploy": "none", "host": asked[0].request["host"]}


def test_the_log_names_what_answers_meanwhile(
    database: Database, wanted: list[ServedModel], caplog: pytest.LogCaptureFixture
) -> None:
    never_ran(database)
    other = [replace(served, deployment=replace(served.deployment, stable="fp16-openvino")) for served in wanted]
    follow = Revalidation(
        JobQueue(database, 10), DatasetRegistry(database), replace(HERE, gpu=GPU), EngineRegistry(database).never_ran
    ).follow
    follow(other)
    said = {record.variant: record.message for record in caplog.records if "validated here" in record.message}  # type: ignore[attr-defined]
    assert said["int8-onnxruntime"].endswith("is validated here; variant 'fp16-openvino' answers meanwhile")
    assert said["fp16-tensorrt"].endswith("is validated here; it is not deployed")
    caplog.clear()
    Revalidation(JobQueue(database, 1), DatasetRegistry(database), HERE).follow(wanted)
    assert "cannot be validated here; the FP32 reference answers" in caplog.text


def test_a_host_without_a_gpu_leaves_it_alone(database: Database, wanted: list[ServedModel]) -> None:
    never_ran(database)
    queue = JobQueue(database, 10)
    Revalidation(queue, DatasetRegistry(database), HERE, EngineRegistry(database).never_ran).follow([])
    assert not [job for job in queue.list() if job.request.get("host")]


def test_a_host_without_a_gpu_does_not_ask_for_what_only_a_gpu_can_prove(
    database: Database, wanted: list[ServedModel]
) -> None:
    queue = JobQueue(database, 10)
    on_gpu = [replace(served, unproven=(replace(served.unproven[0], runtime="tensorrt"),)) for served in wanted]
    Revalidation(queue, DatasetRegistry(database), HERE).follow(on_gpu)
    assert not [job for job in queue.list() if job.request.get("host")]
    assert unproven() == 1
