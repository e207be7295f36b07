"""Local copies of what a remote store holds, within a bound: what was not asked for longest goes first."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock

_PARTIAL = ".partial"
_log = logging.getLogger(__name__)


class BlobCache:
    """One folder. Thread-safe, and safe beside other processes on the same folder."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        idle_seconds: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """What was asked for within `idle_seconds` stays, whatever the bound: whoever asked may open it yet."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._lock = Lock()

    def find(self, key: str) -> Path | None:
        """The copy, where there is one."""
        path = self._folder / key
        try:
            os.utime(path, (now := self._clock(), now))
        except FileNotFoundError:
            return None
        return path

    def keep(self, key: str, chunks: Iterable[bytes]) -> Path:
        """Writes a copy, whole or not at all. Raises OSError, and what `chunks` raises."""
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            with partial.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            os.utime(partial, (now := self._clock(), now))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._trim()
        return path

    def forget(self, key: str) -> None:
        (self._folder / key).unlink(missing_ok=True)

    def _trim(self) -> None:
        with self._lock:
            oldest_first = sorted(self._copies())
            surplus = sum(size for _, size, _ in oldest_first) - self._max_bytes
            for asked_at, size, path in oldest_first:
                if asked_at > self._clock() - self._idle_seconds:
                    break
                # What a killed process had begun to write goes as well, bound or not.
                if (surplus > 0 or path.suffix == _PARTIAL) and _is_still(path, asked_at):
                    path.unlink(missing_ok=True)
                    surplus -= size
                    _log.info("local copy dropped", extra={"copy": str(path.relative_to(self._folder)), "bytes": size})

    def _copies(self) -> Iterable[tuple[float, int, Path]]:
        for path in self._folder.rglob("*"):
            # Another process may trim too.
            with suppress(FileNotFoundError):
                if path.is_file():
                    told = path.stat()
                    yield told.st_mtime, told.st_size, path


def _is_still(path: Path, asked_at: float) -> bool:
    """Whether nobody has asked for the copy since: somebody may have while the others were looked at."""
    try:
        return path.stat().st_mtime == asked_at
    except FileNotFoundError:
        return False
