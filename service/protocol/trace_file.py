"""Traces on disk as one JSON list, whole after every write. Refuses to grow past its limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

_END = b"\n]\n"


class TraceFile:
    """Made at the first trace, and anew where it was taken away since; what an earlier process left under its name is
    replaced. Blocks: call it in a thread.
    """

    def __init__(self, path: Path, max_bytes: int = 64 * 1024 * 1024, shown: Path | None = None) -> None:
        """`shown` is what callers are told instead: one pattern for the files of several processes."""
        self.path = path
        self.shown = str(shown or path)
        self._max_bytes = max_bytes
        self._bytes = 0

    def append(self, entries: Sequence[dict[str, Any]]) -> bool:
        """Whether there is room for more. Raises OSError."""
        text = b",\n".join(orjson.dumps(entry) for entry in entries)
        if self._bytes and self._is_whole():
            with self.path.open("r+b") as file:
                # Not from the file's end: a write that failed may have left a part of itself there.
                file.seek(self._bytes - len(_END))
                file.write(b",\n" + text + _END)
                file.truncate()
                written = file.tell()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            written = self.path.write_bytes(b"[\n" + text + _END)
        self._bytes = written
        return written < self._max_bytes

    def _is_whole(self) -> bool:
        return self.path.exists() and self.path.stat().st_size >= self._bytes
