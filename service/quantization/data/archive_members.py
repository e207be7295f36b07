"""Opens untrusted zip archives and their members; whatever the zip reader trips over becomes InvalidDataset."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from service.errors import InvalidDataset

# A damaged directory makes the reader seek to nowhere, unpack short structures, or meet methods it does not know.
_OPEN_ERRORS = (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, RuntimeError, OverflowError)
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError)


@contextmanager
def opened_archive(path: Path, next_step: str) -> Iterator[zipfile.ZipFile]:
    """The archive; also turns errors of reading its members into InvalidDataset."""
    try:
        archive = zipfile.ZipFile(path)
    except _OPEN_ERRORS as error:
        raise _unreadable(error, next_step) from error
    with archive:
        try:
            yield archive
        except _READ_ERRORS as error:
            raise _unreadable(error, next_step) from error


def opened_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """The member's unpacked bytes as a stream, never more than its declared size."""
    try:
        return archive.open(member)
    except _OPEN_ERRORS as error:
        raise InvalidDataset(
            f"member {member.filename[:120]!r} cannot be read: {error!s:.200}; write the archive again"
        ) from error


def _unreadable(error: Exception, next_step: str) -> InvalidDataset:
    return InvalidDataset(f"the file is no readable archive, or it is cut off: {error!s:.200}; {next_step}")
