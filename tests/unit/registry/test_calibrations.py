"""Stored calibrations are found by what they were made from, bounded, and gone with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs, content_key, content_sha256
from service.registry.calibrations import StoredCalibrations, calibration_key

MODEL, OTHER, ROWS, MORE = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "c.npz").write_bytes(b"first")
    return tmp_path / "c.npz"


def test_a_kept_file_is_fetched_by_its_key_and_nothing_by_another(blobs: Blobs, file: Path) -> None:
    stored = StoredCalibrations(blobs)
    stored.keep(calibration_key(MODEL, ROWS, {"rows": 256}), file)
    found = stored.fetch(calibration_key(MODEL, ROWS, {"rows": 256}))
    assert found is not None
    assert found.read_bytes() == b"first"
    for key in (
        calibration_key(MODEL, ROWS, {"rows": 255}),
        calibration_key(MODEL, MORE, {"rows": 256}),
        calibration_key(OTHER, ROWS, {"rows": 256}),
    ):
        assert stored.fetch(key) is None


def test_a_file_kept_again_replaces_the_first(blobs: Blobs, file: Path) -> None:
    stored, key = StoredCalibrations(blobs), calibration_key(MODEL, ROWS, {})
    stored.keep(key, file)
    file.write_bytes(b"second")
    stored.keep(key, file)
    found = stored.fetch(key)
    assert found is not None
    assert found.read_bytes() == b"second"


@pytest.mark.parametrize("gone", [MODEL, ROWS])
def test_calibrations_go_with_their_model_and_with_their_rows(blobs: Blobs, file: Path, gone: str) -> None:
    stored = StoredCalibrations(blobs)
    key, unrelated = calibration_key(MODEL, ROWS, {}), calibration_key(OTHER, MORE, {})
    stored.keep(key, file)
    stored.keep(unrelated, file)
    stored.forget(content_key(gone))
    assert stored.fetch(key) is None
    assert stored.fetch(unrelated) is not None


def test_the_oldest_make_room_for_the_newest(blobs: Blobs, file: Path) -> None:
    stored = StoredCalibrations(blobs, 3)
    keys = [calibration_key(MODEL, ROWS, {"rows": rows}) for rows in range(5)]
    for age, key in enumerate(keys):
        stored.keep(key, file)
        os.utime(blobs.fetch(key), (1_000_000 + age, 1_000_000 + age))
    assert [stored.fetch(key) is not None for key in keys] == [False, False, True, True, True]


def test_a_content_key_tells_its_digest() -> None:
    assert content_sha256(content_key(MODEL)) == MODEL
