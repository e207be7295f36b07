"""Carries a job's files between stages, so that another worker can go on where a dead one stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from service.registry.blobs import Blobs


class StageFiles:
    """The files of a job in an attempt's folder on this host, and their copies in the store."""

    def __init__(self, blobs: Blobs, folder: Path, job_id: str) -> None:
        self._blobs = blobs
        self._job_id = job_id
        self.folder = folder

    def bring(self, names: Iterable[str]) -> None:
        """Makes sure that each named file of the earlier stages lies in the folder."""
        for name in names:
            if not (self.folder / name).exists():
                self.place(name, self._blobs.fetch(self._key(name)))

    def place(self, name: str, source: Path) -> None:
        """Copies a file into the folder, whole or not at all."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)

    def keep(self, names: Iterable[str]) -> None:
        """Copies the named files of the stage that just ended into the store."""
        for name in names:
            self._blobs.put_file(self._key(name), self.folder / name)

    def drop(self) -> None:
        """Deletes the store's copies."""
        self._blobs.delete_under(self._key(""))

    def _key(self, name: str) -> str:
        return f"jobs/{self._job_id}/work/{name}"
