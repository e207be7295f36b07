"""Stored runtime caches are found by engine and kind of GPU, bounded, and gone with the engine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from service.domain.engine import Fingerprint, Gpu
from service.errors import InputTooLarge
from service.registry import runtime_caches
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs, content_key
from service.registry.runtime_caches import StoredRuntimeCaches

ENGINE, OTHER = "a" * 64, "b" * 64
HOST = Fingerprint("cpu", (), "none", {"tensorrt": "tensorrt_rtx 1.7"}, Gpu("RTX 5090", "12.0", "13.0"))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))


def test_what_is_kept_is_read_on_the_same_kind_of_host_and_replaced_whole(blobs: Blobs) -> None:
    stored = StoredRuntimeCaches(blobs)
    assert stored.read(ENGINE, HOST) is None
    for content in (b"first", b"second"):
        stored.keep(ENGINE, HOST, content)
        assert stored.read(ENGINE, replace(HOST, device="another cpu")) == content
    assert len(blobs.entries("runtime-caches/")) == 1


def test_the_fingerprint_of_an_engine_proven_on_a_host_finds_what_the_host_does(blobs: Blobs) -> None:
    stored = StoredRuntimeCaches(blobs)
    stored.keep(ENGINE, replace(HOST.on_gpu(), built_for=("12.0",)), b"kernels")
    assert stored.read(ENGINE, HOST) == b"kernels"


@pytest.mark.parametrize(
    "other",
    [
        replace(HOST, gpu=Gpu("RTX 4090", "12.0", "13.0")),
        replace(HOST, gpu=Gpu("RTX 5090", "8.9", "13.0")),
        replace(HOST, gpu=Gpu("RTX 5090", "12.0", "13.1")),
        replace(HOST, libraries={"tensorrt": "tensorrt_rtx 1.8"}),
        replace(HOST, gpu=None),
    ],
)
def test_another_gpu_driver_or_version_starts_anew(blobs: Blobs, other: Fingerprint) -> None:
    stored = StoredRuntimeCaches(blobs)
    stored.keep(ENGINE, HOST, b"kernels")
    assert stored.read(ENGINE, other) is None
    assert stored.read(OTHER, HOST) is None


def test_the_caches_of_an_engine_go_with_it_and_no_others(blobs: Blobs) -> None:
    stored = StoredRuntimeCaches(blobs)
    elsewhere = replace(HOST, gpu=Gpu("RTX 4090", "8.9", "13.0"))
    for engine, host in ((ENGINE, HOST), (ENGINE, elsewhere), (OTHER, HOST)):
        stored.keep(engine, host, b"kernels")
    stored.forget(content_key(ENGINE))
    assert [stored.read(ENGINE, host) for host in (HOST, elsewhere)] == [None, None]
    assert stored.read(OTHER, HOST) == b"kernels"


def test_the_oldest_make_room_for_the_newest(blobs: Blobs, tmp_path: Path) -> None:
    stored = StoredRuntimeCaches(blobs, 3)
    engines = [digit * 64 for digit in "01234"]
    for age, engine in enumerate(engines):
        stored.keep(engine, HOST, b"kernels")
        (file,) = (tmp_path / "store" / "runtime-caches" / engine).iterdir()
        os.utime(file, (1_000_000 + age, 1_000_000 + age))
    assert [stored.read(engine, HOST) is not None for engine in engines] == [False, False, True, True, True]


def test_a_stored_cache_over_the_limit_is_not_read(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredRuntimeCaches(blobs)
    stored.keep(ENGINE, HOST, b"kernels")
    monkeypatch.setattr(runtime_caches, "MAX_RUNTIME_CACHE_BYTES", 6)
    with pytest.raises(InputTooLarge, match="has 7 bytes, over the limit of 6; it is made again"):
        stored.read(ENGINE, HOST)
