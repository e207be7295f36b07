"""What the serving process lends the engines that it loads, and how long it drains."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service import serve
from service.domain.engine import Fingerprint, Gpu
from service.engines.runtime_cache import CacheStore
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.schema import migrate
from service.settings import Settings
from tests.served_models import artifact

HOST = Fingerprint("cpu", (), "none", {"tensorrt": "tensorrt_rtx 1.7"}, Gpu("RTX 5090", "12.0", "13.0"))


def test_an_engines_compiled_kernels_are_kept_in_the_store_under_the_engine_and_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "load_engine", lambda *given: given[-1])
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))

    def lent(content: bytes, host: Fingerprint) -> CacheStore:
        digest = hashlib.sha256(content).hexdigest()
        engine = replace(artifact(), sha256=digest, blob_key=f"content/{digest}")
        blobs.put_bytes(engine.blob_key, content)
        settings = SimpleNamespace(engine_threads=1, engine_instances=1)
        server: Any = SimpleNamespace(_settings=settings, _blobs=blobs, _host=host)
        return cast("CacheStore", serve.Server._load_engine(server, engine))

    assert lent(b"engine", HOST).read() is None
    lent(b"engine", HOST).write(b"kernels")
    assert lent(b"engine", HOST).read() == b"kernels"
    assert lent(b"another", HOST).read() is None
    assert lent(b"engine", replace(HOST, gpu=Gpu("RTX 5090", "12.0", "13.1"))).read() is None


def test_a_drain_of_less_than_a_second_is_no_drain_of_none(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'octavo.db'}")
    migrate(database)
    server = serve.Server(Settings(data_dir=tmp_path, drain_seconds=0.9), database)
    assert server.config.timeout_graceful_shutdown == 1
    database.close()
