"""Lends a build what timing kernels on this GPU showed before, and keeps what it shows now. No job fails of it.

Kept by GPU, driver and TensorRT's version: another's would mean nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.domain.engine import Fingerprint
from service.domain.recipe import digest_of
from service.errors import NotFound, OctavoError
from service.jobs.stage_files import StageFiles
from service.quantization.kept_files import TIMINGS
from service.registry.blobs import Blobs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownTimings:
    """The stored timings of one kind of GPU, and a job's files. Does nothing on a host without a GPU."""

    blobs: Blobs
    files: StageFiles
    host: Fingerprint

    @property
    def key(self) -> str:
        on_gpu = self.host.on_gpu()
        told = [on_gpu.device, on_gpu.driver, on_gpu.libraries.get("tensorrt", "none")]
        return f"timings/{digest_of({'of': told})}.cache"

    def bring(self) -> None:
        """Puts the stored file into the folder, unless the stage left its own there. TensorRT checks what it says."""
        if self.host.gpu is None or (self.files.folder / TIMINGS).exists():
            return
        with _logged(self.key):
            try:
                self.files.place(TIMINGS, self.blobs.fetch(self.key))
            except NotFound:
                return

    def keep(self, summary: dict[str, Any]) -> None:
        """Stores what the stage made in place of an earlier file."""
        if self.host.gpu is None or TIMINGS not in summary.get("files", []):
            return
        with _logged(self.key):
            self.blobs.delete(self.key)
            self.blobs.put_file(self.key, self.files.folder / TIMINGS)


@contextmanager
def _logged(key: str) -> Iterator[None]:
    try:
        yield
    except (OctavoError, OSError) as error:
        _log.warning("stored timings out of reach", extra={"key": key, "reason": str(error)})
