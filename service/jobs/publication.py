"""The last stage: the artifact, its certificate and the report become visible, and deployed if that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from service.domain.deployment import Deployment
from service.domain.engine import Certificate, EngineArtifact, may_answer
from service.domain.job import Job
from service.domain.recipe import CANARY_WEIGHT_PERCENT, QuantizeRequest
from service.errors import Conflict, NotFound, OctavoError, StageFailed, Unproven
from service.quantization.atomic_files import read_json, write_json, write_text
from service.quantization.kept_files import RUNTIME_CACHE
from service.quantization.report.page import render_page
from service.registry.blobs import Blobs, content_key
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry, not_deployed
from service.registry.engines import EngineRegistry
from service.registry.runtime_caches import StoredRuntimeCaches

_log = logging.getLogger(__name__)
REPORT_FILES = ("report.json", "report.html")


@dataclass(frozen=True, slots=True)
class Publication:
    """Writes results. Doing it twice gives the same rows and blobs, and deploys once, so a killed worker may simply do
    it again.
    """

    database: Database
    blobs: Blobs
    engines: EngineRegistry
    deployments: DeploymentRegistry

    def publish(self, job: Job, gate: dict[str, Any], folder: Path) -> dict[str, Any]:
        """`gate` is the gate stage's summary; `folder` holds the engine file and the report.

        Gives {"state": "succeeded" or "rejected", "result": the job's result}. A rejected engine leaves its report
        and certificate, but no artifact that could be deployed. Raises StageFailed where the verdict is on other bytes
        than the version's, or where the job was to prove an engine on one kind of host, and this worker could not run
        it.
        """
        request = QuantizeRequest.from_json(job.request)
        judged = gate["certificate"].get("model_sha256")
        if judged is not None and judged != request.model_sha256:
            raise StageFailed(
                f"the stored file of version {job.version} of model {job.model!r} was changed: the engine was judged "
                f"beside SHA-256 {judged}, not {request.model_sha256}; upload the model again, and quantize that"
            )
        if gate["verdict"] == "unproven" and request.host is not None:
            raise StageFailed(
                "this job is to prove an engine on a host that can run it, and came to a worker that cannot: "
                f"{gate['certificate']['reason']}; run octavo work on hosts like those of octavo serve"
            )
        emitted = gate.get("emitted_file")
        self._put(job, folder, (*REPORT_FILES, *((emitted,) if emitted else ())))
        result = {
            "variant": gate["variant"],
            "certificate": gate["certificate"],
            "report": f"/jobs/{job.id}/report",
        }
        if gate["verdict"] == "rejected":
            return {"state": "rejected", "result": result}
        artifact = self._store(job, gate, folder)
        if artifact.variant != gate["variant"]:
            _rename(folder, artifact.variant)
            self._put(job, folder, REPORT_FILES)
        if gate["verdict"] == "unproven" and may_answer(artifact):
            # Deploying it is for the caller: what was asked for is the engine of this job.
            return {"state": "succeeded", "result": result | {"variant": artifact.variant} | _kept(job, artifact)}
        told = {"variant": artifact.variant} | self._deploy(job, artifact.variant)
        if artifact.job != job.id:
            told["certificate_kept"] = _kept_certificate(artifact)
        return {"state": "succeeded", "result": result | told}

    def _put(self, job: Job, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            self.blobs.put_file(f"jobs/{job.id}/{name}", folder / name)

    def _store(self, job: Job, gate: dict[str, Any], folder: Path) -> EngineArtifact:
        key = content_key(gate["sha256"])
        # Another model may have an engine of the same bytes, which goes with that model in this very moment.
        with self.database.held([key]):
            return self._put_and_name(job, gate, folder, key)

    def _put_and_name(self, job: Job, gate: dict[str, Any], folder: Path, key: str) -> EngineArtifact:
        self.blobs.put_file(key, folder / gate["engine_file"])
        certificate = Certificate.from_json(gate["certificate"])
        self._keep_compiled(gate["sha256"], certificate, (folder / gate["engine_file"]).with_name(RUNTIME_CACHE))
        return self.engines.publish(
            EngineArtifact(
                model=job.model,
                version=job.version,
                variant=gate["variant"],
                runtime=gate["runtime"],
                precision=gate["precision"],
                recipe_digest=QuantizeRequest.from_json(job.request).recipe_digest(),
                sha256=gate["sha256"],
                size_bytes=gate["size_bytes"],
                blob_key=key,
                batch_max=gate["batch_max"],
                certificate=certificate,
                fingerprint=certificate.fingerprint,
                job=job.id,
                created_at=datetime.now(UTC),
            )
        )

    def _keep_compiled(self, sha256: str, certificate: Certificate, file: Path) -> None:
        """Spares the first load what validation has compiled already. No job fails of it."""
        try:
            if file.exists():
                StoredRuntimeCaches(self.blobs).keep(sha256, certificate.fingerprint, file.read_bytes())
        except (OctavoError, OSError) as error:
            _log.warning("compiled kernels are not stored", extra={"reason": str(error)})

    def _deploy(self, job: Job, variant: str) -> dict[str, Any]:
        mode = QuantizeRequest.from_json(job.request).deploy
        if mode == "none":
            return {}
        try:
            made = self.deployments.put_once(job.id, job.model, partial(_wanted, job, variant, mode))
            return {"deployment": made}
        except (Conflict, NotFound) as error:
            # The engine is proven and stored all the same: say why it does not serve, and let the caller decide.
            return {"deployment": None, "deployment_error": {"error": str(error), "code": error.code}}


def _rename(folder: Path, variant: str) -> None:
    """The report was written before the engine got its name, which is longer where another recipe has the plain one."""
    named, page = (folder / name for name in REPORT_FILES)
    report = read_json(named)
    report |= {"variant": variant, "engine": report["engine"] | {"variant": variant}}
    write_json(named, report)
    write_text(page, render_page(report))


def _wanted(job: Job, variant: str, mode: str, now: Deployment | None) -> Deployment:
    if mode == "promote":
        return Deployment(job.model, job.version, stable=variant)
    if now is None:
        raise not_deployed(job.model)
    if now.version != job.version:
        raise Conflict(
            f"version {now.version} of model {job.model!r} is deployed, so version {job.version} cannot be its "
            f"{mode}; deploy it with PUT /models/{job.model}/deployment"
        )
    if mode == "canary":
        return replace(now, canary=variant, canary_weight=CANARY_WEIGHT_PERCENT)
    return replace(now, shadow=variant)


def _kept(job: Job, artifact: EngineArtifact) -> dict[str, Any]:
    """What a job tells whose engine could not run, where one of the same recipe is proven already."""
    if QuantizeRequest.from_json(job.request).deploy == "none":
        return {}
    words = (
        f"variant {artifact.variant!r} stays the engine that job {artifact.job} proved; deploy that with "
        f"PUT /models/{artifact.model}/deployment"
    )
    return {"deployment": None, "deployment_error": {"error": words, "code": Unproven.code}}


def _kept_certificate(artifact: EngineArtifact) -> str:
    """What a job tells whose engine has a stronger proof already, by rows that calibration has not seen."""
    return (
        f"variant {artifact.variant!r} keeps the certificate that job {artifact.job} gave the same bytes: this job's "
        "rows are known from calibration, which proves less; name a validation set of other rows to replace it"
    )
