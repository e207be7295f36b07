"""A TensorRT job on a host without a GPU: built, stored, unproven, and out of every role. Real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engines.cuda_device import find_device
from tests.installation import finished_job, quantize_body, running, served, upload_digits

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
VARIANT = "fp16-tensorrt"
RECIPE = {"precision": "fp16", "runtime": "tensorrt", "batch": {"min": 1, "opt": 2, "max": 4}}


def job_of(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = client.post("/quantize", json=quantize_body(**changes))
    assert answer.status_code == 202, answer.text
    return finished_job(client, answer.json()["id"])


@pytest.mark.skipif(find_device() is not None, reason="this host has a GPU, and proves the engine")
def test_an_unproven_engine_is_stored_and_takes_no_role(tmp_path: Path) -> None:
    with served(tmp_path) as client, running("work", tmp_path):
        upload_digits(client)
        job = job_of(client, recipe=RECIPE, deploy="promote")
        assert job["state"] == "succeeded", job
        result = job["result"]
        assert result["variant"] == VARIANT
        assert result["certificate"]["verdict"] == "unproven"
        assert result["certificate"]["reason"].startswith("no NVIDIA device on this host; ")
        assert result["deployment"] is None
        assert result["deployment_error"]["code"] == "unproven"
        assert "validates it by itself" in result["deployment_error"]["error"]
        engines = {entry["variant"]: entry for entry in client.get("/models/digits/engines").json()["engines"]}
        assert engines[VARIANT]["fingerprint"]["built_for"]
        assert client.get(f"/jobs/{job['id']}/report").json()["verdict"] == "unproven"
        reference = {"variant": "fp32-onnxruntime"}
        wished: tuple[dict[str, Any], ...] = (
            {"stable": {"variant": VARIANT}},
            {"stable": reference, "canary": {"variant": VARIANT, "weight": 5}},
            {"stable": reference, "shadow": {"variant": VARIANT}},
        )
        for wish in wished:
            answer = client.put("/models/digits/deployment", json={"version": 1} | wish)
            assert answer.status_code == 409, answer.text
            assert "was built and has not run" in answer.json()["error"]
        assert client.get("/models/digits/deployment").json()["stable"] == reference
        # The worker lives, and the next job is any other.
        assert job_of(client, recipe={"precision": "fp16", "batch": RECIPE["batch"]})["state"] == "succeeded"
