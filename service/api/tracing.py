"""Traces requests while somebody asks for it: a sample of them, their timestamps in nanoseconds, to a file.

Belongs to the event loop, and writes in a thread. While nothing is traced, requests do not pass through here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from service.api.trace_file import TraceFile
from service.api.trace_settings import TOLD, TraceSettings, read_changes

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

    `on_switch` is told whenever tracing begins or ends.
    """

    def __init__(self, file: TraceFile, on_switch: Callable[[bool], None]) -> None:
        self._file = file
        self._on_switch = on_switch
        self._active = False
        self._all = _Sampler(TraceSettings())
        self._own: dict[str, dict[str, Any]] = {}
        self._samplers: dict[str, _Sampler] = {}
        self._thread = ThreadPoolExecutor(1, "octavo-trace")
        self._waiting: list[dict[str, Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._traces = 0
        # A count that is used up ends tracing with the last of its traces, not before.
        self._under_way = 0

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
            self._all = _Sampler(replace(self._all.settings, **kept))
        else:
            own = self._own.get(model, {}) | changes
            self._own[model] = {name: value for name, value in own.items() if value is not None}
        for name in [*self._own] if model is None else [model]:
            self._samplers[name] = _Sampler(replace(self._all.settings, **self._own[name]))
            if not self._own[name]:
                del self._own[name], self._samplers[name]
        self._switch()

    def changes(self) -> list[tuple[str | None, dict[str, Any]]]:
        """What `change` is to be told, for all models and for single ones, to come to the settings as they are."""
        own = {model: {TOLD[name] for name in changes} for model, changes in self._own.items()}
        return [
            (model, {name: value for name, value in self.shown(model).items() if name in names})
            for model, names in [(None, set(TOLD.values())), *own.items()]
        ]

    def takes_next(self, model: str) -> bool:
        """Whether the request that comes now is to be traced."""
        taken = self._sampler(model).takes_next()
        self._under_way += taken
        return taken

    def record(self, model: str, version: int, request_id: str | None, seconds: dict[str, float]) -> None:
        """One traced request: `seconds` of the monotonic clock by the protocol's names, in order."""
        self._under_way -= 1
        if not self._under_way:
            self._switch()
        self._traces += 1
        entry: dict[str, Any] = {"id": self._traces, "model_name": model, "model_version": version}
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
        """Writes what still waits, and ends the thread."""
        written = self._flush()
        if written is not None:
            await asyncio.wait([written])
        self._thread.shutdown(wait=False)

    def _sampler(self, model: str) -> _Sampler:
        return self._samplers.get(model, self._all)

    def _switch(self) -> None:
        active = self._all.active or any(sampler.active for sampler in self._samplers.values())
        if active != self._active:
            self._active = active
            self._on_switch(active)

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
        self._all = _Sampler(replace(self._all.settings, timestamps=False))
        self._own.clear()
        self._samplers.clear()
        self._switch()
