"""Files that appear whole or not at all, however the process that writes them ends."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames it over `path` at the end; removes it where writing failed.

    A second try after a kill writes over the first one's leftover. Raises StorageFull where the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"no space to write {path.name}: {error.strerror}; free disk space and retry") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def require_space(folder: Path, size_bytes: int) -> None:
    """Raises StorageFull where a library that writes by itself, and words a full disk as another fault, would fail."""
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise StorageFull(f"{size_bytes} bytes are needed in {folder} and {free} are free; free disk space and retry")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Refuses NaN and infinity, which are no JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
