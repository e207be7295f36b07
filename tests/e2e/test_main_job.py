"""The main job, as a newcomer sees it: one command, real processes, a real model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.domain.job import STAGES
from tests.installation import DIGITS, finished_job, quantize_body, served, upload_digits
from tests.waiting import wait_until


def test_the_demo_does_the_whole_job_and_leaves_no_process(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "service", "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=170
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for words in ("accuracy", "p99", "octavo_request_duration_seconds", "five"):
        assert words in demo.stdout, demo.stdout
    assert "INT8" in demo.stdout or "int8" in demo.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_one_command_uploads_quantizes_proves_and_serves(tmp_path: Path, runtime: str) -> None:
    with served(tmp_path, "up") as client:
        upload_digits(client)
        body = quantize_body(runtime=runtime, deploy="promote")
        answer = client.post("/quantize", json=body)
        assert answer.status_code == 202
        job_id = answer.json()["id"]
        assert answer.headers["location"] == f"/jobs/{job_id}"
        assert client.post("/quantize", json=body).status_code == 200
        job = finished_job(client, job_id)
        assert job["state"] == "succeeded", job
        assert [stage["name"] for stage in job["stages"]] == list(STAGES)
        _is_served(client, f"int8-{runtime}")
        report = client.get(f"/jobs/{job_id}/report").json()
        page = client.get(f"/jobs/{job_id}/report.html").text
        assert report["certificate"]["verdict"] == "passed"
        assert report["certificate"]["fingerprint"]["libraries"].keys() == {runtime}
        assert "<svg" in page
        assert "src=" not in page.replace('src="data:', "")
        metrics = client.get("/metrics").text
        assert 'octavo_jobs{kind="quantize",state="succeeded"} 1.0' in metrics
        series = f'octavo_requests_total{{model="digits",outcome="ok",route="stable",variant="int8-{runtime}"'
        assert series in metrics


def _is_served(client: httpx.Client, variant: str) -> None:
    picture = (DIGITS / "sample.png").read_bytes()

    def ask() -> dict[str, object]:
        headers = {"content-type": "image/png"}
        answer: dict[str, object] = client.post("/models/digits/predict", content=picture, headers=headers).json()
        return answer

    wait_until(lambda: ask().get("variant") == variant)
    assert ask()["predictions"][0]["label"] == "five"  # type: ignore[index]
