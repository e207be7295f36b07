"""Jobs outlive the death of every process, at every stage. Real processes, killed with SIGKILL."""

from __future__ import annotations

import ctypes
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from service.domain.job import STAGES
from tests.installation import children_of, finished_job, quantize_body, running, served, upload_digits
from tests.waiting import wait_until


def _submit(client: httpx.Client, **more: object) -> str:
    answer = client.post("/quantize", json=quantize_body(**more))  # type: ignore[arg-type]
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_worker_killed_in_each_stage_of_a_job_loses_nothing_and_the_job_finishes(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        job_id = _submit(client)
        for stage in STAGES[:-1]:
            with running("work", tmp_path) as worker:
                _wait_for_stage(client, job_id, stage)
                worker.kill()
        before = {stage["name"]: stage["seconds"] for stage in client.get(f"/jobs/{job_id}").json()["stages"]}
        with running("work", tmp_path):
            job = finished_job(client, job_id)
            # The files go after the job's end is written.
            wait_until(lambda: list((tmp_path / "work").iterdir()) == [])
        assert job["state"] == "succeeded", job
        assert job["attempt"] == len(STAGES)
        after = {stage["name"]: stage["seconds"] for stage in job["stages"]}
        assert all(after[name] == seconds for name, seconds in before.items() if seconds is not None)
        assert client.get(f"/jobs/{job_id}/report").status_code == 200
        assert list((tmp_path / "store" / "jobs" / job_id).glob("work/*")) == []


def test_a_worker_killed_while_it_tries_an_engine_casts_no_blame_on_the_runtime(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        job_id = _submit(client, runtime="onnxruntime")
        with running("work", tmp_path) as worker:
            _wait_for_stage(client, job_id, "validate")
            wait_until(lambda: list((tmp_path / "work").glob(f"{job_id}.*/attempted")))
            worker.kill()
        with running("work", tmp_path):
            job = finished_job(client, job_id)
        assert job["state"] == "succeeded", job


def test_a_stage_dies_with_its_worker(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        job_id = _submit(client)
        with running("work", tmp_path) as worker:
            _wait_for_stage(client, job_id, "calibrate")
            children = wait_until(lambda: children_of(worker.pid))
            worker.kill()
            wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_a_killed_server_keeps_uploads_and_jobs(tmp_path: Path) -> None:
    with running("serve", tmp_path, OCTAVO_PORT="0"):
        pass
    with served(tmp_path) as client:
        upload_digits(client)
        job_id = _submit(client)
    with served(tmp_path) as client:
        assert [model["name"] for model in client.get("/models").json()["models"]] == ["digits"]
        assert client.get(f"/jobs/{job_id}").json()["state"] == "queued"


def test_a_stopped_worker_hands_its_job_to_the_next(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        job_id = _submit(client)
        with running("work", tmp_path) as worker:
            _wait_for_stage(client, job_id, "calibrate")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(10) == 0
        assert client.get(f"/jobs/{job_id}").json()["state"] == "running"
        with running("work", tmp_path):
            assert finished_job(client, job_id)["state"] == "succeeded"


def test_workers_share_a_folder_and_one_goes_on_where_another_is_killed(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        job_id = _submit(client)
        with running("work", tmp_path) as worker:
            _wait_for_stage(client, job_id, "calibrate")
            with running("work", tmp_path):
                wait_until(lambda: (tmp_path / "work.log").read_text().count("worker ready") == 2)
                worker.kill()
                # Far sooner than the lease's minute.
                wait_until(lambda: client.get(f"/jobs/{job_id}").json()["attempt"] == 2)
                assert finished_job(client, job_id)["state"] == "succeeded"


def test_nothing_of_an_ended_jobs_workflow_stays(tmp_path: Path) -> None:
    with served(tmp_path) as client, running("work", tmp_path, OCTAVO_WORKER_LEASE_SECONDS="3"):
        upload_digits(client)
        job_id = _submit(client)
        _wait_for_stage(client, job_id, "calibrate")
        tables = ("workflow_status", "operation_outputs")
        assert all(_rows(tmp_path, table) for table in tables)
        assert finished_job(client, job_id)["state"] == "succeeded"
        wait_until(lambda: not any(_rows(tmp_path, table) for table in tables))
        assert client.get(f"/jobs/{job_id}").json()["state"] == "succeeded"


def _rows(data_dir: Path, table: str) -> int:
    with closing(sqlite3.connect(data_dir / "octavo.db")) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_a_worker_stops_whichever_of_its_threads_is_handed_the_signal(tmp_path: Path) -> None:
    with running("work", tmp_path) as worker:
        wait_until(lambda: "worker ready" in (tmp_path / "work.log").read_text())
        others = [int(task.name) for task in Path(f"/proc/{worker.pid}/task").iterdir() if int(task.name) != worker.pid]
        assert ctypes.CDLL(None).tgkill(worker.pid, others[0], signal.SIGTERM) == 0
        assert worker.wait(10) == 0


def test_a_running_job_can_be_cancelled_and_leaves_no_files(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        job_id = _submit(client)
        with running("work", tmp_path):
            _wait_for_stage(client, job_id, "calibrate")
            assert client.delete(f"/jobs/{job_id}").status_code in (200, 202)
            job = finished_job(client, job_id)
            wait_until(lambda: not list((tmp_path / "work").iterdir()))
        assert job["state"] == "cancelled"
        assert _submit(client) != job_id


def test_a_result_outside_the_budget_is_rejected_and_not_deployed(tmp_path: Path) -> None:
    with served(tmp_path) as client, running("work", tmp_path):
        upload_digits(client)
        # No float16 engine answers bit for bit as float32 does.
        budget = {"metric": "mae", "max_loss": 0.0}
        job = finished_job(client, _submit(client, precision="fp16", budget=budget, deploy="promote"))
        assert job["state"] == "rejected", job
        assert job["result"]["certificate"]["verdict"] == "rejected"
        deployment = client.get("/models/digits/deployment").json()
        assert deployment["stable"] == {"variant": "fp32-onnxruntime"}
        assert [engine["variant"] for engine in client.get("/models/digits/engines").json()["engines"]] == [
            "fp32-onnxruntime"
        ]


def _wait_for_stage(client: httpx.Client, job_id: str, stage: str) -> None:
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["stage"] == stage)
