"""A folder on this host for each attempt at a job, so that no two workers ever write into one."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.jobs.life_marks import is_locked

_LOCK = ".lock"


class JobFolders:
    """The folders under `root`, named after job and attempt."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def opened(self, job_id: str, attempt: int) -> Iterator[Path]:
        """The folder of this attempt. It begins with what the attempt just before left here, if that was made on this
        host by a process that has died: then nobody else has touched the job since. Raises OSError.
        """
        folder, earlier = self._path(job_id, attempt), self._path(job_id, attempt - 1)
        if earlier.is_dir() and not folder.exists() and not is_locked(earlier / _LOCK):
            earlier.rename(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield folder

    def jobs(self) -> set[str]:
        """Every job that has a folder here."""
        return {folder.name.partition(".")[0] for folder in self._root.iterdir()} if self._root.is_dir() else set()

    def drop(self, job_id: str) -> None:
        """Deletes the job's folders, but for one that a living process still holds."""
        for folder in self._root.glob(f"{job_id}*"):
            if not is_locked(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, job_id: str, attempt: int) -> Path:
        return self._root / f"{job_id}.{attempt}"
