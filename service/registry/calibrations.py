"""Stored calibrations: what one model's tensors were on one dataset, kept for the next job on both.

A cache: it is bounded, whatever is in it can be made again, and it goes with the model or the dataset it was made from.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from service.errors import NotFound
from service.registry.blobs import Blobs, content_sha256

MAX_STORED = 256
_FOLDER = "calibrations/"


def calibration_key(model_sha256: str, dataset_sha256: str, how: dict[str, Any]) -> str:
    """The key for a model and the rows of a dataset; `how` is what else the outcome depends on, as JSON."""
    digest = hashlib.sha256(json.dumps(how, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"{_FOLDER}{model_sha256}/{dataset_sha256}/{digest}.npz"


class StoredCalibrations:
    """The calibrations in one store, at most `most` of them."""

    def __init__(self, blobs: Blobs, most: int = MAX_STORED) -> None:
        self._blobs = blobs
        self._most = most

    def fetch(self, key: str) -> Path | None:
        """A local copy, for reading only; None where there is none. What it holds is for the reader to check."""
        try:
            return self._blobs.fetch(key)
        except NotFound:
            return None

    def keep(self, key: str, path: Path) -> None:
        """Stores the file in place of an earlier one, and deletes the oldest beyond the bound."""
        self._blobs.delete(key)
        self._blobs.put_file(key, path)
        others = [entry for entry in self._blobs.entries(_FOLDER) if entry.key != key]
        others.sort(key=lambda entry: entry.stored_at, reverse=True)
        for old in others[self._most - 1 :]:
            self._blobs.delete(old.key)

    def forget(self, blob_key: str) -> None:
        """Deletes every calibration of the model or dataset whose content has this key."""
        sha256 = content_sha256(blob_key)
        for entry in self._blobs.entries(_FOLDER):
            if sha256 in entry.key.split("/"):
                self._blobs.delete(entry.key)
