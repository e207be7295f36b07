"""A job for ONNX Runtime's CUDA provider on a host without a GPU: emitted, stored, unproven, out of every role."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.engines.cuda_device import find_device
from tests.installation import finished_job, quantize_body, running, served, upload_digits

VARIANT = "fp16-onnxruntime-cuda"


@pytest.mark.skipif(find_device() is not None, reason="this host has a GPU, and proves the engine")
def test_an_engine_for_cuda_is_stored_unproven_and_is_not_promoted(tmp_path: Path) -> None:
    recipe = {"precision": "fp16", "runtime": "onnxruntime-cuda", "batch": {"min": 1, "opt": 2, "max": 4}}
    with served(tmp_path) as client, running("work", tmp_path):
        upload_digits(client)
        answer = client.post("/quantize", json=quantize_body(recipe=recipe, deploy="promote"))
        assert answer.status_code == 202, answer.text
        job = finished_job(client, answer.json()["id"])
        assert job["state"] == "succeeded", job
        result = job["result"]
        assert (result["variant"], result["certificate"]["verdict"]) == (VARIANT, "unproven")
        assert result["certificate"]["reason"].startswith("no NVIDIA device on this host; ")
        assert result["deployment_error"]["code"] == "unproven"
        wish = {"version": 1, "stable": {"variant": VARIANT}}
        answer = client.put("/models/digits/deployment", json=wish)
        assert (answer.status_code, "was built and has not run" in answer.text) == (409, True)
        assert client.get("/models/digits/deployment").json()["stable"] == {"variant": "fp32-onnxruntime"}
