"""Lends an earlier job's calibration to a stage and keeps what the stage made. A cache: a job never fails of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.errors import OctavoError
from service.jobs.stage_files import StageFiles
from service.quantization.kept_files import CALIBRATION
from service.registry.calibrations import StoredCalibrations

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownCalibration:
    """One key of the stored calibrations, and the job's folder."""

    stored: StoredCalibrations
    files: StageFiles
    key: str

    def bring(self) -> None:
        """Puts the stored file into the folder, unless the stage left its own there. The stage checks what it says."""
        with _logged(self.key):
            source = self.stored.fetch(self.key)
            if source is not None and not (self.files.folder / CALIBRATION).exists():
                self.files.place(CALIBRATION, source)

    def keep(self, summary: dict[str, Any]) -> None:
        """Stores what the stage made, unless it took the stored file as it was."""
        if CALIBRATION in summary.get("files", []) and not summary.get("reused"):
            with _logged(self.key):
                self.stored.keep(self.key, self.files.folder / CALIBRATION)


@contextmanager
def _logged(key: str) -> Iterator[None]:
    try:
        yield
    except (OctavoError, OSError) as error:
        _log.warning("stored calibration out of reach", extra={"key": key, "reason": str(error)})
