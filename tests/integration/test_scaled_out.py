"""Server and worker apart: PostgreSQL, a bucket, and no folder in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from service.registry.database import Database
from tests.installation import DIGITS, finished_job, quantize_body, running, served, upload_digits
from tests.object_store import serve_bucket
from tests.waiting import wait_until


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
        with running("work", tmp_path / "w1", OCTAVO_STORE_URL=bucket, OCTAVO_WORKER_ID="w", **settings) as worker:
            wait_until(lambda: client.get(f"/jobs/{job_id}").json()["stage"] == "convert")
            worker.kill()
        # The next start of this worker has another disk: what the finished stages made comes from the bucket.
        with running("work", tmp_path / "w2", OCTAVO_STORE_URL=bucket, OCTAVO_WORKER_ID="w", **settings):
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
