"""What the store promises, on a local folder and on S3."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import InvalidInput, NotFound, StorageFull, StoreUnavailable
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs, content_key
from tests.object_store import serve_bucket

_SHA = "ab" + "c" * 62


@pytest.fixture(scope="session")
def bucket_url() -> Iterator[str]:
    with serve_bucket() as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))
    return Blobs(request.getfixturevalue("bucket_url"), BlobCache(tmp_path / "cache", 10**9))


def test_a_file_comes_back_as_it_was_put(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20 * 1024 * 1024))
    blobs.put_file(content_key(_SHA), source)
    assert blobs.fetch(content_key(_SHA)).read_bytes() == source.read_bytes()
    assert blobs.fetch(content_key(_SHA)).stat().st_size == 20 * 1024 * 1024


def test_small_contents_are_read_whole_and_replaced(blobs: Blobs) -> None:
    blobs.put_bytes("jobs/1/report.json", b"{}")
    blobs.put_bytes("jobs/1/report.json", b"{1}")
    assert blobs.read_bytes("jobs/1/report.json") == b"{1}"


def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(blobs: Blobs) -> None:
    blobs.put_bytes("x/y", b"1")
    blobs.fetch("x/y")
    assert blobs.exists("x/y")
    blobs.delete("x/y")
    blobs.delete("x/y")
    assert not blobs.exists("x/y")
    with pytest.raises(NotFound, match="'x/y' is not in the store"):
        blobs.fetch("x/y")
    with pytest.raises(NotFound, match="'x/y' is not in the store"):
        blobs.read_bytes("x/y")


def test_deleting_under_a_folder_spares_its_neighbours(blobs: Blobs) -> None:
    for key in ("jobs/1/work/a", "jobs/1/work/b/c", "jobs/1/report.json"):
        blobs.put_bytes(key, b"1")
    blobs.delete_under("jobs/1/work/")
    assert [blobs.exists(key) for key in ("jobs/1/work/a", "jobs/1/work/b/c", "jobs/1/report.json")] == [
        False,
        False,
        True,
    ]
    blobs.delete_under("jobs/2/work/")


def test_a_full_disk_is_storage_full_and_leaves_no_blob(tmp_path: Path) -> None:
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageFull, match="has no room for 'a/b': free space"):
            blobs.put_file("a/b", source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not blobs.exists("a/b")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_silent_store_is_unavailable_and_worth_a_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ENDPOINT", "http://127.0.0.1:9"), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "x")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with pytest.raises(StoreUnavailable, match="the store failed at 'a/b'") as caught:
        Blobs("s3://nowhere", BlobCache(tmp_path, 10**9), retry_seconds=0.1).put_bytes("a/b", b"1")
    assert caught.value.retryable


def test_a_store_url_that_nothing_understands_is_refused_with_what_works(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'ftp://x/y' cannot be used.*use file:///PATH, s3://"):
        Blobs("ftp://x/y", BlobCache(tmp_path, 10**9))


@pytest.mark.parametrize("url", ["memory://", "file:relative", "file://host/srv/store", "https://host/bucket"])
def test_a_store_that_processes_would_not_share_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"cannot be used: (its scheme|a folder is named from the root).*use file:///PATH"
    ):
        Blobs(url, BlobCache(tmp_path, 10**9))


def test_a_store_that_cannot_be_used_is_named_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'ftps://host/bucket' cannot be used.*s3://") as refused:
        Blobs("ftps://user:hunter2@host/bucket?token=hunter3", BlobCache(tmp_path, 10**9))
    assert "hunter" not in str(refused.value)
