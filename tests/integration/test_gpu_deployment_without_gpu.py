"""A model deployed as a TensorRT engine, on a host that cannot run it: a real server answers, and says how and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.domain.deployment import Deployment
from service.domain.engine import Certificate, EngineArtifact, Fingerprint
from service.engines.cuda_device import find_device
from service.engines.fingerprint import engine_fingerprint
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from tests.installation import DIGITS, served, upload_digits
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(find_device() is not None, reason="this host has a GPU")
GPU = Fingerprint("GPU A", (), "13.0", {"tensorrt": "tensorrt 11.4.0"}, built_for=("9.0",))
TENSORRT, FP16 = "int8-tensorrt", "fp16-onnxruntime"


@dataclass(frozen=True)
class Served:
    client: httpx.Client
    log: Path

    def logged(self, words: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if words in json.dumps(line)]


def engine(variant: str, runtime: str, proof: Fingerprint, sha256: str, blob_key: str) -> EngineArtifact:
    certificate = Certificate("passed", "top1", 0.0, 0.01, "lost nothing", proof, "2026-01-01T00:00:00Z")
    precision, now = variant.split("-")[0], datetime.now(UTC)
    named = ("digits", 1, variant, runtime, precision, variant)
    return EngineArtifact(*named, sha256, 1, blob_key, 32, certificate, proof, None, now)


def sample() -> dict[str, Any]:
    values = [float(place) for place in range(64)]
    return {"inputs": [{"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": values}]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The deployment was made where there is a GPU; the same database and store are then served from here."""
    folder = tmp_path_factory.mktemp("gpu-deployment")
    with served(folder) as client:
        upload_digits(client)
        (reference,) = client.get("/models/digits/engines").json()["engines"]
    database = Database(f"sqlite:///{folder / 'octavo.db'}")
    engines = EngineRegistry(database)
    stored = engines.find("digits", 1, reference["variant"])
    engines.publish(engine(TENSORRT, "tensorrt", GPU, "0" * 64, "content/never-fetched"))
    # The reference's own file as another variant: its answers are known.
    proof = engine_fingerprint("onnxruntime")
    engines.publish(engine(FP16, "onnxruntime", proof, stored.sha256, stored.blob_key))
    DeploymentRegistry(database).put(Deployment("digits", 1, TENSORRT))
    database.close()
    with served(folder) as client:
        yield Served(client, folder / "serve.log")


def test_requests_are_answered_by_the_best_engine_that_is_proven_here(here: Served) -> None:
    answer = here.client.post("/v2/models/digits/infer", json=sample()).json()
    assert answer["parameters"]["variant"] == FP16
    picture = (DIGITS / "sample.png").read_bytes()
    predicted = here.client.post("/models/digits/predict", content=picture, headers={"content-type": "image/png"})
    assert predicted.json()["variant"] == FP16


def test_the_index_and_readiness_say_what_is_missing_and_what_answers(here: Served) -> None:
    (line,) = here.client.post("/v2/repository/index").json()
    assert line["state"] == "READY"
    assert line["reason"].startswith(
        f"variant {TENSORRT!r} is unproven on this host and variant {FP16!r} answers: runtime 'tensorrt' cannot run "
        "here: "
    )
    assert "pip install 'octavo[gpu]'" in line["reason"] or "nvidia-smi" in line["reason"]
    ready = here.client.get("/v2/models/digits/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": "digits", "ready": True, "reason": line["reason"]})
    assert here.client.get("/v2/health/ready").status_code == 200


def test_the_metrics_name_both_engines(here: Served) -> None:
    text = here.client.get("/metrics").text
    labels = f'model="digits",variant="{TENSORRT}",version="1"'
    assert f"octavo_engines_unproven{{{labels}}} 1.0" in text
    assert f'octavo_engine_fallbacks{{fallback="{FP16}",{labels}}} 1.0' in text


def test_the_log_says_it_and_nothing_is_built_or_fetched_where_it_cannot_be_proven(here: Served) -> None:
    wait_until(lambda: here.logged("another engine answers"))
    (said,) = here.logged("another engine answers")
    assert said["reason"].startswith(f"variant {TENSORRT!r} is unproven on this host and variant {FP16!r} answers")
    assert not any("Traceback" in json.dumps(line) or "never-fetched" in json.dumps(line) for line in here.logged(""))
    assert here.client.get("/jobs").json()["jobs"] == []


def test_asked_for_by_name_the_engine_is_not_ready_and_what_answers_is_named(here: Served) -> None:
    refused = here.client.post("/v2/models/digits/infer", json=sample() | {"parameters": {"variant": TENSORRT}})
    assert refused.status_code == 503
    assert "unproven on this host" in refused.json()["error"]
    assert FP16 in refused.json()["error"]
