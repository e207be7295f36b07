"""Asks for a build again where an engine has no proof on this host and could get one: once a kind of host.

That is what is deployed here and was proven elsewhere, and what was built where it could not run, deployed or not.
Where the rows of the job that built it are gone, it asks for nothing and says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from service.domain.deployment import ServedModel
from service.domain.engine import EngineArtifact, Fingerprint, can_prove
from service.domain.recipe import QuantizeRequest, digest_of
from service.errors import Conflict, OctavoError
from service.jobs.queue import JobQueue
from service.metrics import ENGINES_UNPROVEN
from service.registry.blobs import content_sha256
from service.registry.datasets import DatasetRegistry

_RETRY_SECONDS = 60.0
_log = logging.getLogger(__name__)
_Key = tuple[str, int, str, str]


class Revalidation:
    """Enqueues the job that built an engine, for this host. Thread-safe where its callers take turns."""

    def __init__(
        self,
        jobs: JobQueue,
        datasets: DatasetRegistry,
        host: Fingerprint,
        never_ran: Callable[[], Iterable[EngineArtifact]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`never_ran` gives the stored engines that no host has run; it is asked only where this one might."""
        self._jobs = jobs
        self._datasets = datasets
        self._here = host
        self._never_ran = never_ran
        self._host = digest_of(host.to_json() | {"device": ""} if host.driver == "none" else host.to_json())
        self._clock = clock
        self._not_before: dict[_Key, float] = {}
        self._unproven: list[EngineArtifact] = []
        ENGINES_UNPROVEN.read_from(self._series)

    def follow(self, wanted: Iterable[ServedModel]) -> None:
        """Takes the newest wish; blocks while jobs are written. Raises nothing: a full queue is asked again."""
        answering = [(artifact, served.answering) for served in wanted for artifact in served.unproven]
        self._unproven = [artifact for artifact, _ in answering]
        # A host without a GPU would only build such an engine once more.
        waiting = self._never_ran() if self._here.gpu is not None else ()
        for artifact, answers in (*answering, *((artifact, "") for artifact in waiting)):
            if not can_prove(artifact, self._here):
                continue
            key = (artifact.model, artifact.version, artifact.variant, artifact.sha256)
            if self._clock() >= self._not_before.get(key, 0.0):
                self._not_before[key] = self._ask(artifact, answers)

    def _ask(self, artifact: EngineArtifact, answers: str) -> float:
        """When to ask again: never, once the job stands. `answers` is what does instead, "" where none has to."""
        meanwhile = f"{answers} answers meanwhile" if answers else "it is not deployed"
        told = {"model": artifact.model, "version": artifact.version, "variant": artifact.variant}
        try:
            request = QuantizeRequest.from_json(self._jobs.find(str(artifact.job)).request)
            self._check_rows(request)
            # What answers already is to be right; how fast it is was asked where it was built.
            budget = replace(request.budget, min_speedup=None)
            job, _ = self._jobs.submit(replace(request, budget=budget, deploy="none", host=self._host))
        except OctavoError as error:
            _log.warning(
                f"an engine is unproven on this host and cannot be validated here; {meanwhile}",
                extra=told | {"error": str(error)},
            )
            return self._clock() + _RETRY_SECONDS
        reason = artifact.certificate.reason if artifact.certificate else ""
        _log.warning(
            f"an engine is unproven on this host and is validated here; {meanwhile}",
            extra=told | {"reason": reason, "job": job.id},
        )
        return float("inf")

    def _check_rows(self, request: QuantizeRequest) -> None:
        """Raises NotFound where a dataset is gone, Conflict where its name holds other rows by now."""
        asked = ((request.calibration, request.calibration_sha256), (request.validation, request.validation_sha256))
        for name, sha256 in asked:
            # A finished job does not hold its datasets: one may be deleted, and its name be another's since.
            if name is not None and content_sha256(self._datasets.find(name).blob_key) != sha256:
                raise Conflict(
                    f"dataset {name!r} holds other rows than those that the engine was judged on (SHA-256 {sha256}); "
                    "quantize again with POST /quantize, or upload those rows under that name again"
                )

    def _series(self) -> Iterable[tuple[tuple[str, str, str], float]]:
        return [((artifact.model, str(artifact.version), artifact.variant), 1.0) for artifact in self._unproven]
