"""A file that a command writes: it changes once all of it is there, or stays as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EBUSY, EPERM, EROFS
from pathlib import Path
from secrets import token_hex
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import BinaryIO

from service.cli.exit_codes import CommandFailed, ExitCode

# What a folder says that takes no new files, and a file that another is mounted over.
_NOT_REPLACED = (EACCES, EPERM, EROFS, EBUSY)


@contextmanager
def written_whole(file: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes replace the file at the end. Raises CommandFailed where it cannot be written.

    A pipe or a device is written to itself, and so, at the end, is a file that nothing can be put in the place of.
    """
    # Beside what a link points to, so that the link stays one.
    target = Path(os.path.realpath(file))
    partial = target.with_name(f".octavo-{token_hex(4)}.part")
    try:
        if file.exists() and not file.is_file():
            with file.open("wb") as stream:
                yield stream
            return
        with _opened(partial) as whole:
            yield whole
            whole.flush()
            if not _is_replaced(target, partial):
                whole.seek(0)
                with target.open("wb") as stream:
                    copyfileobj(whole, stream)
    except OSError as error:
        words = error.strerror or str(error)
        raise CommandFailed(f"{file} cannot be written: {words}", "not_written", ExitCode.FAILED) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _opened(partial: Path) -> BinaryIO:
    """The file beside the target or, in a folder that takes none, one among the temporary files."""
    try:
        return partial.open("x+b")
    except OSError as error:
        if error.errno not in _NOT_REPLACED:
            raise
        return TemporaryFile()


def _is_replaced(target: Path, partial: Path) -> bool:
    if not partial.exists():
        return False
    try:
        partial.replace(target)
    except OSError as error:
        if error.errno not in _NOT_REPLACED:
            raise
        return False
    return True
