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

    A pipe or a device is written to itself, and so is a file that nothing can be put in the place of.
    """
    try:
        with TemporaryFile() as whole:
            yield whole
            if (file.exists() and not file.is_file()) or not _is_replaced(file, whole):
                whole.seek(0)
                with file.open("wb") as stream:
                    copyfileobj(whole, stream)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", "not_written", ExitCode.FAILED) from error


def _is_replaced(file: Path, whole: BinaryIO) -> bool:
    # Beside what a link points to, so that the link stays one.
    target = Path(os.path.realpath(file))
    partial = target.with_name(f".octavo-{token_hex(4)}.part")
    try:
        whole.seek(0)
        with partial.open("xb") as stream:
            copyfileobj(whole, stream)
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        if error.errno not in _NOT_REPLACED:
            raise
        return False
    return True
