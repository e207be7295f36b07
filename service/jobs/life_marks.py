"""Files that tell which workers live on one data folder: each holds a lock on its own, which ends with its process."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from service.registry.database import make_folder


class LifeMarks:
    """The marks of one data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def held(self, worker: str) -> Iterator[None]:
        """Marks the worker as alive until its process ends, however that ends, or the block does.

        Raises InvalidInput where the folder cannot be made.
        """
        make_folder(self._folder)
        mark = self._path(worker)
        partial = mark.with_suffix(".partial")
        with partial.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Seen by others only now: a mark without its lock means a dead worker.
            partial.rename(mark)
            yield

    def dead(self) -> set[str]:
        """The workers whose marks nobody holds any more."""
        return {unquote(mark.stem) for mark in self._folder.glob("*.lock") if not is_locked(mark)}

    def forget(self, worker: str) -> None:
        self._path(worker).unlink(missing_ok=True)

    def _path(self, worker: str) -> Path:
        return self._folder / f"{quote(worker, safe='')}.lock"


def is_locked(file: Path) -> bool:
    """Whether a process holds the file's lock, or it cannot be told. A file that is not there is not locked."""
    try:
        # For writing: a lock over NFS asks for it.
        with file.open("r+") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
