"""TensorRT-RTX compiles an engine's kernels on the GPU that it first runs on; here it is told when, and they are kept.

TensorRT proper compiles when it builds, and has none of this. What fails here is logged and costs time, no engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.domain.limits import MAX_RUNTIME_CACHE_BYTES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheStore:
    """Where one engine's compiled kernels are kept for this kind of host. Both may raise; `read` may find None."""

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]


class RuntimeCache:
    """One engine's compiled kernels, which all of its execution contexts share through `config`.

    Each is compiled for its shapes when these first come. TensorRT-RTX would otherwise answer with slower, general ones
    until a thread of its own is done, and whatever was measured or captured until then would be of those.

    Used inside the CUDA context's `active`, and closed after the last of those execution contexts.
    """

    def __init__(self, config: Any, cache: Any, store: CacheStore | None) -> None:
        self.config = config
        self._cache = cache
        self._store = store
        self._stored: bytes | None = None

    @classmethod
    def open(cls, trt: Any, engine: Any, store: CacheStore | None) -> RuntimeCache | None:
        """With what the store has of it; without a store they are shared, not kept. None in TensorRT proper."""
        if not hasattr(trt, "IRuntimeCache"):
            return None
        opened: RuntimeCache | None = None
        with _logged("this engine's kernels are compiled beside its answers, and not kept"):
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            made = cls(config, config.create_runtime_cache(), store)
            made._bring()
            if not config.set_runtime_cache(made._cache):
                _log.warning("this engine's kernels are not kept", extra={"reason": "TensorRT-RTX refuses the cache"})
                made._cache = made._store = None
            opened = made
        return opened

    def _bring(self) -> None:
        if self._store is None:
            return
        with _logged("stored kernels are not used; they are compiled again"):
            content = self._store.read()
            if content is None:
                return
            # TensorRT-RTX checks what it was made by and for, and leaves the cache empty where that is not this.
            if self._cache.deserialize(content):
                self._stored = content
                return
            told = {"reason": "TensorRT-RTX refuses them: damaged, or of another host", "bytes": len(content)}
            _log.warning("stored kernels are not used; they are compiled again", extra=told)

    def keep(self) -> None:
        """Stores all that was compiled so far, where that is not stored yet and there is a store."""
        if self._store is None:
            return
        with _logged("compiled kernels are not stored"):
            content = bytes(memoryview(self._cache.serialize()))
            if content == self._stored:
                return
            if len(content) > MAX_RUNTIME_CACHE_BYTES:
                told = {"reason": f"over the limit of {MAX_RUNTIME_CACHE_BYTES} bytes", "bytes": len(content)}
                _log.warning("compiled kernels are not stored", extra=told)
                return
            self._store.write(content)
            self._stored = content

    def close(self) -> None:
        # Nothing says that the one keeps the other alive, so the one that points to the other goes first.
        self.config = None
        self._cache = None


@contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001
        # The store's, TensorRT's or a disk's: the engine serves without.
        _log.warning(what, extra={"reason": f"{type(error).__name__}: {error}"})
