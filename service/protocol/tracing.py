"""Traces requests while somebody asks for it: a sample of them, their timestamps in nanoseconds, to a file.

Belongs to the event loop, and writes in a thread. Requests of both protocols pass through here while it is `active`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from service.domain.inference import InferResult
from service.protocol.trace_file import TraceFile
from service.protocol.trace_settings import TOLD, TraceSettings, read_changes

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 1.0
_FLUSH_ENTRIES = 1024


class _Sampler:
    """Counts the requests under one setting."""

    def __init__(self, settings: TraceSettings) -> None:
        self.settings = settings
        self._seen = 0
        self._left = settings.count

    @property
    def active(self) -> bool:
        return self.settings.timestamps and self._left != 0

    def following(self, settings: TraceSettings, named: Iterable[str]) -> _Sampler:
        """The sampler after a change that named these settings: itself, its count included, where none is another."""
        return self if settings == self.settings and "count" not in named else _Sampler(settings)

    def takes_next(self) -> bool:
        if not self.active:
            return False
        self._seen += 1
        if self._seen % self.settings.rate:
            return False
        self._left -= self._left > 0
        return True


class Tracer:
    """The settings of all models and of single ones, and the traces on their way to the file.

    While it is `active`, each request notes when it was queued, and its answer goes through `answered`.
    """

    def __init__(self, file: TraceFile, clock: Callable[[], float] = time.monotonic) -> None:
        self.active = False
        self._file = file
        self._clock = clock
        self._all = _Sampler(TraceSettings())
        self._own: dict[str, dict[str, Any]] = {}
        self._samplers: dict[str, _Sampler] = {}
        self._thread = ThreadPoolExecutor(1, "octavo-trace")
        self._waiting: list[dict[str, Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._traces = 0

    def shown(self, model: str | None = None) -> dict[str, Any]:
        """The settings that hold for a model, or for all that have none of their own."""
        sampler = self._all if model is None else self._sampler(model)
        return sampler.settings.to_json(self._file.shown)

    def change(self, body: dict[str, Any], model: str | None = None) -> None:
        """Changes what `body` names, for one model or for all; null goes back. Raises InvalidInput or Unsupported."""
        changes = read_changes(body, self._file.shown)
        if model is None:
            defaults = asdict(TraceSettings())
            kept = {name: defaults[name] if value is None else value for name, value in changes.items()}
            self._all = self._all.following(replace(self._all.settings, **kept), changes)
        else:
            own = self._own.get(model, {}) | changes
            self._own[model] = {name: value for name, value in own.items() if value is not None}
        for name in [*self._own] if model is None else [model]:
            if self._own[name]:
                named = changes.keys() & self._own[name].keys() if model is not None else ()
                settings = replace(self._all.settings, **self._own[name])
                before = self._samplers.get(name)
                self._samplers[name] = before.following(settings, named) if before is not None else _Sampler(settings)
            else:
                del self._own[name]
                self._samplers.pop(name, None)
        self._switch()

    def has_own(self, model: str) -> bool:
        """Whether the model has settings of its own."""
        return model in self._own

    def changes(self) -> list[tuple[str | None, dict[str, Any]]]:
        """What `change` is to be told, for all models and for single ones, to come to the settings as they are."""
        own = {model: {TOLD[name] for name in changes} for model, changes in self._own.items()}
        return [
            (model, {name: value for name, value in self.shown(model).items() if name in names})
            for model, names in [(None, set(TOLD.values())), *own.items()]
        ]

    def answered(self, model: str, request_id: str | None, began: float, queued: float, result: InferResult) -> None:
        """Traces the request where its turn is; it `began` and was `queued` at these seconds of the clock."""
        sampler = self._sampler(model)
        if not sampler.takes_next():
            return
        if not sampler.active:
            self._switch()
        begun = queued + result.queue_us / 1e6
        ended = begun + result.compute_us / 1e6
        seconds = {
            "REQUEST_START": began,
            "QUEUE_START": queued,
            "COMPUTE_START": begun,
            # Joining and splitting the rows of a batch is part of its run.
            "COMPUTE_INPUT_END": begun,
            "COMPUTE_OUTPUT_START": ended,
            "COMPUTE_END": ended,
            "REQUEST_END": self._clock(),
        }
        self._traces += 1
        entry: dict[str, Any] = {"id": self._traces, "model_name": model, "model_version": result.version}
        if request_id:
            # Half a surrogate pair has no place in the file.
            entry["request_id"] = request_id.encode("utf-8", "replace").decode()
        self._waiting.append(entry)
        times = [{"name": name, "ns": int(at * 1e9)} for name, at in seconds.items()]
        self._waiting.append({"id": self._traces, "timestamps": times})
        if len(self._waiting) >= _FLUSH_ENTRIES:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)

    async def close(self) -> None:
        """Ends tracing, writes what still waits, and ends the thread."""
        self._end()
        written = self._flush()
        if written is not None:
            await asyncio.wait([written])
        self._thread.shutdown(wait=False)

    def _sampler(self, model: str) -> _Sampler:
        return self._samplers.get(model, self._all)

    def _switch(self) -> None:
        self.active = self._all.active or any(sampler.active for sampler in self._samplers.values())

    def _flush(self) -> asyncio.Future[bool] | None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return None
        entries, self._waiting = self._waiting, []
        written = asyncio.get_running_loop().run_in_executor(self._thread, self._file.append, entries)
        written.add_done_callback(self._written)
        return written

    def _written(self, written: asyncio.Future[bool]) -> None:
        error = written.exception()
        if error is None and written.result():
            return
        _log.warning("tracing ends", extra={"file": str(self._file.path), "error": str(error or "the file is full")})
        self._end()

    def _end(self) -> None:
        self._all = _Sampler(replace(self._all.settings, timestamps=False))
        self._own.clear()
        self._samplers.clear()
        self._switch()
