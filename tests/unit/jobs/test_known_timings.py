"""What timing kernels showed serves the next build on the same kind of GPU, and nothing of it can end a job."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.domain.engine import Fingerprint, Gpu
from service.jobs.known_timings import KnownTimings
from service.jobs.stage_files import StageFiles
from service.quantization.kept_files import TIMINGS
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs

HOST = Fingerprint("cpu", (), "none", {"tensorrt": "tensorrt 11.4"}, Gpu("H100", "9.0", "13.0"))
MADE = {"files": ["tensorrt/engine.plan", TIMINGS]}


def known_for(folder: Path, job: str, host: Fingerprint = HOST) -> KnownTimings:
    blobs = Blobs((folder / "store").as_uri(), BlobCache(folder / "cache", 10**9))
    files = StageFiles(blobs, folder / "work" / job, job)
    (files.folder / "tensorrt").mkdir(parents=True, exist_ok=True)
    return KnownTimings(blobs, files, host)


def timings(known: KnownTimings) -> Path:
    return known.files.folder / TIMINGS


def test_timings_lie_in_the_next_jobs_folder(tmp_path: Path) -> None:
    first, second = known_for(tmp_path, "1"), known_for(tmp_path, "2")
    first.bring()
    assert not timings(first).exists()
    timings(first).write_bytes(b"timed")
    first.keep(MADE)
    first.files.drop()
    second.bring()
    assert timings(second).read_bytes() == b"timed"


@pytest.mark.parametrize(
    "other",
    [
        replace(HOST, gpu=Gpu("H200", "9.0", "13.0")),
        replace(HOST, gpu=Gpu("H100", "9.0", "13.1")),
        replace(HOST, libraries={"tensorrt": "tensorrt 11.5"}),
    ],
)
def test_another_gpu_driver_or_version_starts_anew(tmp_path: Path, other: Fingerprint) -> None:
    first, second = known_for(tmp_path, "1"), known_for(tmp_path, "2", other)
    timings(first).write_bytes(b"timed")
    first.keep(MADE)
    second.bring()
    assert not timings(second).exists()


def test_a_host_without_a_gpu_keeps_nothing(tmp_path: Path) -> None:
    known = known_for(tmp_path, "1", replace(HOST, gpu=None))
    timings(known).write_bytes(b"timed")
    known.keep(MADE)
    assert not (tmp_path / "store" / "timings").exists()


def test_a_store_that_fails_costs_the_timings_and_not_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = known_for(tmp_path, "1")
    timings(known).write_bytes(b"timed")
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    (tmp_path / "store").write_text("a file where the store was")
    known.keep(MADE)
    timings(known).unlink()
    known.bring()
    assert "stored timings out of reach" in caplog.text
