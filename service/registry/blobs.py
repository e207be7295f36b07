"""Blobs: immutable files in a local folder or an object store, under keys made here or from their content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, from_url

from service.errors import InvalidInput, NotFound, StorageFull, StoreUnavailable
from service.registry.blob_cache import BlobCache
from service.registry.database import make_folder

_CHUNK_BYTES = 8 * 1024 * 1024
_SCHEMES = ("file", "s3", "gs", "az")
# No space, over quota, over the file size that this process may write.
_FULL = ("os error 28", "os error 122", "os error 27", "QuotaExceeded")


def content_key(sha256: str) -> str:
    """The key of bytes known by their SHA-256 in hex."""
    return f"content/{sha256[:2]}/{sha256[2:]}"


def content_sha256(key: str) -> str:
    """The SHA-256 that a key of content_key was made from."""
    return key.removeprefix("content/").replace("/", "")


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A stored blob, and when it was put."""

    key: str
    stored_at: datetime


class Blobs:
    """One store. Synchronous and thread-safe; a put is whole or absent, so a reader never sees half a blob."""

    def __init__(self, store_url: str, cache: BlobCache, retry_seconds: float = 60.0) -> None:
        """`cache` holds local copies of remote blobs; a remote store is asked again for `retry_seconds`.

        Raises InvalidInput for a URL no store understands.
        """
        self._cache = cache
        self._folder: Path | None = None
        parts = urlsplit(store_url)
        try:
            if parts.scheme not in _SCHEMES:
                raise ValueError(f"its scheme is {parts.scheme!r}")
            if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path.startswith("/")):
                raise ValueError("a folder is named from the root of this host on")
            if parts.scheme == "file":
                self._folder = Path(unquote(parts.path))
                make_folder(self._folder)
                self._store: Any = LocalStore(prefix=self._folder, automatic_cleanup=True)
            else:
                self._store = from_url(store_url, retry_config={"retry_timeout": timedelta(seconds=retry_seconds)})
        except InvalidInput:
            raise
        except Exception as error:
            shown = _without_secrets(store_url)
            reason = _first_line(error).replace(store_url, shown)
            raise InvalidInput(
                f"the store {shown!r} cannot be used: {reason}; use file:///PATH, s3://, gs:// or az://"
            ) from error

    def put_file(self, key: str, path: Path) -> None:
        """Streams a file into the store. Raises StorageFull or StoreUnavailable; then nothing is stored."""
        with _foreign_errors(key):
            obstore.put(self._store, key, path, chunk_size=_CHUNK_BYTES)

    def put_bytes(self, key: str, data: bytes) -> None:
        """As put_file, for small contents in memory."""
        with _foreign_errors(key):
            obstore.put(self._store, key, data)

    def read_bytes(self, key: str) -> bytes:
        """The whole blob. Raises NotFound."""
        with _foreign_errors(key):
            return bytes(obstore.get(self._store, key).bytes())

    def fetch(self, key: str) -> Path:
        """A local file with the blob's content, for reading only. Raises NotFound."""
        if self._folder is not None:
            path = self._folder / key
            if not path.is_file():
                raise NotFound(f"blob {key!r} is not in the store; it was deleted, or the store is another one")
            return path
        return self._cache.find(key) or self._download(key)

    def size_bytes(self, key: str) -> int:
        """The blob's size, without reading it. Raises NotFound."""
        with _foreign_errors(key):
            return int(obstore.head(self._store, key)["size"])

    def exists(self, key: str) -> bool:
        try:
            self.size_bytes(key)
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        """Deletes the blob and its cached copy; a missing one is no error."""
        with suppress(NotFound), _foreign_errors(key):
            obstore.delete(self._store, key)
        if self._folder is None:
            self._cache.forget(key)

    def entries(self, prefix: str) -> list[BlobEntry]:
        """Every blob whose key begins with the folder `prefix`, which ends in a slash."""
        with _foreign_errors(prefix):
            batches = list(obstore.list(self._store, prefix))
        return [BlobEntry(entry["path"], entry["last_modified"]) for batch in batches for entry in batch]

    def delete_under(self, prefix: str) -> None:
        """Deletes every blob whose key begins with the folder `prefix`, which ends in a slash."""
        for entry in self.entries(prefix):
            self.delete(entry.key)

    def _download(self, key: str) -> Path:
        with _foreign_errors(key):
            return self._cache.keep(key, obstore.get(self._store, key).stream(min_chunk_size=_CHUNK_BYTES))


@contextmanager
def _foreign_errors(key: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"blob {key!r} is not in the store; it was deleted, or the store is another one") from error
    except Exception as error:
        if any(mark in str(error) for mark in _FULL):
            raise StorageFull(f"the store has no room for {key!r}: free space, then try again") from error
        raise StoreUnavailable(
            f"the store failed at {key!r}: {_first_line(error)}; try again, or check that it is up"
        ) from error


def _first_line(error: Exception) -> str:
    """The store's own words without the debugging lines that follow them."""
    return str(error).split("\n", 1)[0]


def _without_secrets(url: str) -> str:
    """The URL without what may stand before the host's @ or in the query: a user, a password, a token."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
