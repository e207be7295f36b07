"""What the dataset registry promises."""

from __future__ import annotations

import pytest

from service.errors import AlreadyExists, InUse, NotFound
from service.jobs.queue import JobQueue
from service.registry.database import Database
from service.registry.datasets import DatasetRegistry
from tests.samples import IMAGE, new_dataset, quantize_request


def test_a_dataset_is_found_as_it_was_added(database: Database) -> None:
    datasets = DatasetRegistry(database)
    added, created = datasets.add(new_dataset())
    assert created
    assert datasets.find("rows") == added == datasets.list()[0]
    assert added.arrays == {"input": IMAGE}


def test_the_same_bytes_under_the_same_name_are_one_dataset(database: Database) -> None:
    datasets = DatasetRegistry(database)
    datasets.add(new_dataset())
    assert datasets.add(new_dataset())[1] is False


def test_other_bytes_under_a_taken_name_are_refused(database: Database) -> None:
    datasets = DatasetRegistry(database)
    datasets.add(new_dataset())
    with pytest.raises(AlreadyExists, match="choose another name"):
        datasets.add(new_dataset(sha256="e" * 64))


def test_a_dataset_that_a_waiting_job_uses_cannot_be_deleted(database: Database) -> None:
    datasets, jobs = DatasetRegistry(database), JobQueue(database, 10)
    datasets.add(new_dataset())
    job, _ = jobs.submit(quantize_request())
    with pytest.raises(InUse, match=job.id):
        datasets.delete("rows")
    jobs.cancel(job.id)
    datasets.delete("rows")
    with pytest.raises(NotFound, match="dataset 'rows' does not exist"):
        datasets.find("rows")
