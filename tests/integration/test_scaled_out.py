"""Server and worker apart: PostgreSQL, a bucket, and no folder in common."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.registry.database import Database
from tests.installation import DIGITS, finished_job, quantize_body, running, served, upload_digits
from tests.object_store import serve_bucket
from tests.waiting import wait_until

SHORT_LEASE = {"OCTAVO_WORKER_LEASE_SECONDS": "3"}


@pytest.fixture
def settings(postgresql_url: str) -> dict[str, str]:
    """A database of its own on the test's PostgreSQL."""
    database = Database(postgresql_url)
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS scaled"))
        connection.execute(sa.text("CREATE DATABASE scaled"))
    url = database.url.set(database="scaled").render_as_string(hide_password=False)
    database.close()
    return {"OCTAVO_DATABASE_URL": url}


def test_a_model_is_quantized_and_served_over_postgresql_and_a_bucket(tmp_path: Path, settings: dict[str, str]) -> None:
    with (
        serve_bucket() as bucket,
        served(tmp_path / "a", OCTAVO_STORE_URL=bucket, **settings) as client,
        served(tmp_path / "b", OCTAVO_STORE_URL=bucket, **settings) as other,
    ):
        upload_digits(client)
        job_id = client.post("/quantize", json=quantize_body(deploy="promote")).json()["id"]
        with running("work", tmp_path / "w1", OCTAVO_STORE_URL=bucket, **SHORT_LEASE, **settings) as worker:
            _wait_for_stage(client, job_id, "convert")
            worker.kill()
        # Another worker, with another disk, takes over: what the finished stages made comes from the bucket.
        with running("work", tmp_path / "w2", OCTAVO_STORE_URL=bucket, **SHORT_LEASE, **settings):
            job = finished_job(other, job_id)
        assert job["state"] == "succeeded", job
        picture = (DIGITS / "sample.png").read_bytes()
        for server in (client, other):
            answer = wait_until(
                lambda s=server: (
                    (  # type: ignore[misc]
                        body := s.post(
                            "/models/digits/predict", content=picture, headers={"content-type": "image/png"}
                        ).json()
                    ).get("variant")
                    == "int8-onnxruntime"
                    and body
                )
            )
            assert answer["predictions"][0]["label"] == "five"


def test_a_worker_that_was_only_cut_off_ends_and_leaves_the_job_to_the_one_that_took_over(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    shared = {"OCTAVO_STORE_URL": (tmp_path / "store").as_uri(), **SHORT_LEASE, **settings}
    with served(tmp_path / "a", **shared) as client:
        upload_digits(client)
        job_id = client.post("/quantize", json=quantize_body(deploy="promote")).json()["id"]
        with running("work", tmp_path / "w1", **shared) as cut_off:
            _wait_for_stage(client, job_id, "calibrate")
            cut_off.send_signal(signal.SIGSTOP)
            with running("work", tmp_path / "w2", **shared):
                # Longer where it was cut off in the middle of a transaction.
                wait_until(lambda: client.get(f"/jobs/{job_id}").json()["attempt"] == 2, seconds=90)
                # Both have the job now. The first comes back in the middle of the second's work.
                cut_off.send_signal(signal.SIGCONT)
                assert cut_off.wait(30) == 1
                job = finished_job(client, job_id)
        assert (job["state"], job["attempt"]) == ("succeeded", 2), job
        assert "took this one for dead" in (tmp_path / "w1" / "work.log").read_text()
        assert client.get("/models/digits/deployment").json()["stable"]["variant"] == "int8-onnxruntime"


def test_a_stopped_workers_job_goes_on_at_once_whatever_its_lease(tmp_path: Path, settings: dict[str, str]) -> None:
    shared = {"OCTAVO_STORE_URL": (tmp_path / "store").as_uri(), **settings}
    with served(tmp_path / "a", **shared) as client:
        upload_digits(client)
        job_id = client.post("/quantize", json=quantize_body()).json()["id"]
        with running("work", tmp_path / "w1", OCTAVO_WORKER_LEASE_SECONDS="3600", **shared) as worker:
            _wait_for_stage(client, job_id, "convert")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(10) == 0
        with running("work", tmp_path / "w2", **shared):
            assert finished_job(client, job_id)["state"] == "succeeded"


def _wait_for_stage(client: httpx.Client, job_id: str, stage: str) -> None:
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["stage"] == stage)
