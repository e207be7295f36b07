"""A file that a command writes: it changes once all of it is written, or stays as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from service.cli.exit_codes import CommandFailed, ExitCode


@contextmanager
def written_whole(file: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes replace the file at the end. Raises CommandFailed where it cannot be written.

    A pipe or a device, which nothing may replace, is written to itself.
    """
    try:
        if file.exists() and not file.is_file():
            with file.open("wb") as stream:
                yield stream
            return
        # Beside what a link points to, so that the link stays one.
        target = Path(os.path.realpath(file))
        partial = target.with_name(f".octavo-{os.getpid()}.part")
        try:
            with partial.open("wb") as stream:
                yield stream
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", "not_written", ExitCode.FAILED) from error
