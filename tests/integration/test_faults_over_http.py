"""Faults and crowds at a real server: writers at once, a full queue, a full disk, a store that fails."""

from __future__ import annotations

import io
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np

from tests.installation import children_of, finished_job, free_port, quantize_body, running, served, upload_digits
from tests.integration.conftest import Installation
from tests.uploading import digits_model, digits_rows, npz, post_dataset, post_model, refusal
from tests.waiting import wait_until


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_two_writers_of_the_same_upload_at_once(server: Installation) -> None:
    with server.unchanged() as client, ThreadPoolExecutor(6) as pool:
        models = list(pool.map(lambda _: post_model(client, digits_model("w"), name="writers"), range(6)))
        datasets = list(pool.map(lambda _: post_dataset(client, name="writers"), range(6)))
        assert sorted(answer.status_code for answer in models) == [200] * 5 + [201]
        assert sorted(answer.status_code for answer in datasets) == [200] * 5 + [201]
        assert {answer.json()["version"] for answer in models} == {1}
        assert client.delete("/models/writers/deployment").status_code == 204
        assert client.delete("/models/writers/versions/1").status_code == 204
        assert client.delete("/datasets/writers").status_code == 204


def test_two_writers_of_one_name_at_once(server: Installation) -> None:
    with server.unchanged() as client, ThreadPoolExecutor(4) as pool:
        contents = [npz(input=digits_rows(seed=seed)) for seed in range(4)]
        answers = list(pool.map(lambda data: post_dataset(client, data, name="contested"), contents))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
        for answer in answers:
            if answer.status_code == 409:
                refusal(answer, 409, "'contested'", "another name")
        assert client.delete("/datasets/contested").status_code == 204


def test_a_full_queue(tmp_path: Path) -> None:
    with served(tmp_path, OCTAVO_MAX_QUEUED_JOBS="1") as client:
        upload_digits(client)
        job_id = client.post("/quantize", json=quantize_body()).json()["id"]
        with Installation(client, tmp_path).unchanged():
            answer = client.post("/quantize", json=quantize_body(precision="fp16"))
            refusal(answer, 429, "limit is 1", "OCTAVO_MAX_QUEUED_JOBS")
            assert answer.headers["retry-after"]
        assert client.delete(f"/jobs/{job_id}").status_code == 202
        assert client.post("/quantize", json=quantize_body(precision="fp16")).status_code == 202


def test_labels_beyond_the_models_classes_fail_the_job_with_a_reason(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        labels = np.full(64, 99)
        assert post_dataset(client, npz(input=digits_rows(64), labels=labels), name="beyond").status_code == 201
        job_id = client.post("/quantize", json=quantize_body(validation="beyond")).json()["id"]
        with running("work", tmp_path):
            job = finished_job(client, job_id)
        assert job["state"] == "failed"
        error = job["error"]
        assert isinstance(error, dict)
        assert error["code"] == "invalid_dataset"
        assert "99" in error["error"]
        assert "0 to 9" in error["error"]


@contextmanager
def small_disk(largest_file_bytes: int) -> Iterator[None]:
    """Processes started within may write no file larger than this, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(tmp_path: Path) -> None:
    limit = 8 * 1024 * 1024
    with ExitStack() as stack:
        with small_disk(limit):
            client = stack.enter_context(served(tmp_path))
        with Installation(client, tmp_path).unchanged():
            body = refusal(post_model(client, bytes(limit + 1)), 507, "free space")
            assert body["code"] == "storage_full"
            # Small as it arrives, too large as it is stored.
            unpacked = np.random.default_rng(0).integers(0, 4, (40_000, 1, 8, 8)).astype(np.float32)
            refusal(post_dataset(client, packed(input=unpacked)), 507, "free")
        assert post_model(client).status_code == 201


def test_a_store_that_fails(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        installation = Installation(client, tmp_path)
        # A file where the store keeps its folder: every put fails, as on a broken mount.
        (tmp_path / "store" / "content").write_bytes(b"")
        with installation.unchanged():
            for send in (post_model, post_dataset):
                assert refusal(send(client), 503, "the store failed", "try again")["code"] == "store_unavailable"
        (tmp_path / "store" / "content").unlink()
        assert post_model(client).status_code == 201


def test_an_open_event_stream_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    begun = Event()

    def follow(url: str) -> list[str]:
        lines = []
        with httpx.stream("GET", url, timeout=60) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                begun.set()
        return lines

    with ThreadPoolExecutor(1) as pool:
        with served(tmp_path, OCTAVO_DRAIN_SECONDS="60") as client:
            upload_digits(client)
            job_id = client.post("/quantize", json=quantize_body()).json()["id"]
            reading = pool.submit(follow, f"{client.base_url}/jobs/{job_id}/events")
            assert begun.wait(10)
        # The server was given SIGTERM and half a minute to end, which is less than it may drain.
        assert reading.result(10)[0] == "event: job"


def test_an_upload_that_outlasts_the_drain_is_told_that_the_server_stops(tmp_path: Path) -> None:
    begun = Event()

    def slow() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n'
        while True:
            yield bytes(64 * 1024)
            begun.set()
            Event().wait(0.02)

    def upload(url: str) -> httpx.Response:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        return httpx.post(url, content=slow(), headers=headers, timeout=60)

    with ThreadPoolExecutor(1) as pool:
        with served(tmp_path, OCTAVO_DRAIN_SECONDS="1") as client:
            uploading = pool.submit(upload, f"{client.base_url}/models")
            assert begun.wait(10)
        body = refusal(uploading.result(10), 503, "stops", "again")
    assert body["code"] == "stopping"
    assert list((tmp_path / "spool").iterdir()) == []
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def _checks_a_file(pid: int) -> bool:
    """Not yet while the process is a mere fork of its parent."""
    return b"inspect_model" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_check_that_hangs_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    port = free_port()
    settings = {"OCTAVO_PORT": str(port), "OCTAVO_DRAIN_SECONDS": "1"}
    with ThreadPoolExecutor(1) as pool, running("serve", tmp_path, **settings) as server:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until(lambda: "Uvicorn running" in (tmp_path / "serve.log").read_text())
            uploading = pool.submit(post_model, client)
            child = wait_until(lambda: next(filter(_checks_a_file, children_of(server.pid)), 0))
            os.kill(child, signal.SIGSTOP)
            server.terminate()
            # The drain, and the moment that threads are given.
            assert server.wait(15) == 0
            os.kill(child, signal.SIGCONT)
            assert refusal(uploading.result(10), 503, "stops", "again")["code"] == "stopping"
        wait_until(lambda: not Path(f"/proc/{child}").exists())
