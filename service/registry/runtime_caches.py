"""Stored runtime caches: the kernels that TensorRT-RTX compiled for one engine on one kind of GPU.

A cache: it is bounded, whatever is in it can be made again, and it goes with its engine.
"""

from __future__ import annotations

from service.domain.engine import Fingerprint
from service.domain.limits import MAX_RUNTIME_CACHE_BYTES
from service.domain.recipe import digest_of
from service.errors import InputTooLarge, NotFound
from service.registry.blobs import Blobs, content_sha256

MAX_STORED = 128
_FOLDER = "runtime-caches/"


class StoredRuntimeCaches:
    """The runtime caches in one store, at most `most` of them."""

    def __init__(self, blobs: Blobs, most: int = MAX_STORED) -> None:
        self._blobs = blobs
        self._most = most

    def read(self, engine_sha256: str, host: Fingerprint) -> bytes | None:
        """What was kept of the engine on a host with this GPU, driver and TensorRT; None where nothing was."""
        key = _key(engine_sha256, host)
        try:
            size_bytes = self._blobs.size_bytes(key)
            if size_bytes > MAX_RUNTIME_CACHE_BYTES:
                raise InputTooLarge(
                    f"the stored runtime cache {key!r} has {size_bytes} bytes, over the limit of "
                    f"{MAX_RUNTIME_CACHE_BYTES}; it is made again"
                )
            # Never a local copy: another server may have put a newer one in its place.
            return self._blobs.read_bytes(key)
        except NotFound:
            return None

    def keep(self, engine_sha256: str, host: Fingerprint, content: bytes) -> None:
        """Stores it in place of an earlier one, and deletes the oldest beyond the bound."""
        key = _key(engine_sha256, host)
        self._blobs.put_bytes(key, content)
        others = [entry for entry in self._blobs.entries(_FOLDER) if entry.key != key]
        others.sort(key=lambda entry: entry.stored_at, reverse=True)
        for old in others[self._most - 1 :]:
            self._blobs.delete(old.key)

    def forget(self, blob_key: str) -> None:
        """Deletes every runtime cache of the engine whose content has this key."""
        self._blobs.delete_under(f"{_FOLDER}{content_sha256(blob_key)}/")


def _key(engine_sha256: str, host: Fingerprint) -> str:
    on_gpu = host.on_gpu()
    capability = on_gpu.gpu.compute_capability if on_gpu.gpu else "none"
    told = [on_gpu.device, capability, on_gpu.driver, on_gpu.libraries.get("tensorrt", "none")]
    return f"{_FOLDER}{engine_sha256}/{digest_of({'of': told})}.cache"
