"""Stored content of uploads: blobs are put before the rows that name them, and deleted once no row does.

Refuses nothing itself; a crash between the two leaves at most a blob that no row names, never the reverse.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from service.errors import OctavoError
from service.registry.blobs import Blobs
from service.registry.calibrations import StoredCalibrations
from service.registry.database import Database
from service.registry.datasets import DatasetRegistry
from service.registry.models import blob_in_use
from service.registry.runtime_caches import StoredRuntimeCaches

_log = logging.getLogger(__name__)


class Content:
    """Puts and releases content by key. Two callers never handle the same key at once, whatever their processes."""

    def __init__(self, blobs: Blobs, database: Database) -> None:
        self._blobs = blobs
        self._database = database
        self._datasets = DatasetRegistry(database)
        self._calibrations = StoredCalibrations(blobs)
        self._runtime_caches = StoredRuntimeCaches(blobs)

    @contextmanager
    def stored(self, files: Mapping[str, Path | bytes]) -> Iterator[None]:
        """Holds `files` in the store, by key, while the block writes the rows that name them.

        When the block raises, what no row names is deleted again. Raises StorageFull or StoreUnavailable.
        """
        with self._database.held(files):
            try:
                for key, source in files.items():
                    self._put(key, source)
                yield
            except BaseException:
                self._drop_unnamed(files)
                raise

    def release(self, keys: set[str]) -> None:
        """Deletes those blobs that no row names any more; call it after the rows are gone."""
        with self._database.held(keys):
            self._drop_unnamed(keys)

    def _put(self, key: str, source: Path | bytes) -> None:
        if self._blobs.exists(key):
            return
        if isinstance(source, bytes):
            self._blobs.put_bytes(key, source)
        else:
            self._blobs.put_file(key, source)

    def _drop_unnamed(self, keys: Mapping[str, Path | bytes] | set[str]) -> None:
        for key in keys:
            try:
                if not (blob_in_use(self._database, key) or self._datasets.uses_blob(key)):
                    self._blobs.delete(key)
                    self._calibrations.forget(key)
                    self._runtime_caches.forget(key)
            except OctavoError as error:
                # The caller's own answer stands; the blob that stays behind costs space and nothing else.
                _log.warning("blob not deleted", extra={"key": key, "error": str(error)})
