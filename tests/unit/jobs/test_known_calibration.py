"""A job borrows an earlier one's calibration and gives its own back; nothing of it can end a job."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.jobs.known_calibration import KnownCalibration
from service.jobs.stage_files import StageFiles
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.calibrations import StoredCalibrations, calibration_key

KEY = calibration_key("a" * 64, "b" * 64, {})
MADE = {"files": ["calibration.npz"], "reused": False}


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))


def known_for(blobs: Blobs, folder: Path, job: str) -> KnownCalibration:
    files = StageFiles(blobs, folder / "work" / job, job)
    files.folder.mkdir(parents=True, exist_ok=True)
    return KnownCalibration(StoredCalibrations(blobs), files, KEY)


def test_what_one_job_made_lies_in_the_next_ones_folder(blobs: Blobs, tmp_path: Path) -> None:
    first, second = known_for(blobs, tmp_path, "1"), known_for(blobs, tmp_path, "2")
    first.bring()
    assert list(first.files.folder.iterdir()) == []
    (first.files.folder / "calibration.npz").write_bytes(b"seen")
    first.keep(MADE)
    first.files.drop()
    second.bring()
    assert (second.files.folder / "calibration.npz").read_bytes() == b"seen"
    assert [path.name for path in second.files.folder.iterdir()] == ["calibration.npz"]


def test_a_file_that_the_stage_left_before_it_was_killed_is_not_overwritten(blobs: Blobs, tmp_path: Path) -> None:
    first, second = known_for(blobs, tmp_path, "1"), known_for(blobs, tmp_path, "2")
    (first.files.folder / "calibration.npz").write_bytes(b"stored")
    first.keep(MADE)
    (second.files.folder / "calibration.npz").write_bytes(b"own")
    second.bring()
    assert (second.files.folder / "calibration.npz").read_bytes() == b"own"


@pytest.mark.parametrize("summary", [{"skipped": True, "files": []}, {"files": ["calibration.npz"], "reused": True}])
def test_what_was_skipped_or_borrowed_is_not_stored_again(
    blobs: Blobs, tmp_path: Path, summary: dict[str, object]
) -> None:
    known = known_for(blobs, tmp_path, "1")
    (known.files.folder / "calibration.npz").write_bytes(b"seen")
    known.keep(summary)
    assert StoredCalibrations(blobs).fetch(KEY) is None


def test_a_store_that_fails_costs_the_reuse_and_not_the_job(
    blobs: Blobs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = known_for(blobs, tmp_path, "1")
    (known.files.folder / "calibration.npz").write_bytes(b"seen")
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("a file where the store was")
    known.keep(MADE)
    known.bring()
    assert "stored calibration out of reach" in caplog.text
