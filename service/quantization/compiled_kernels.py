"""The name of the file that keeps what a GPU runtime compiled while it validated: the first load takes it."""

from __future__ import annotations

RUNTIME_CACHE = "runtime.cache"
