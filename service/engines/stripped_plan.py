"""A TensorRT plan without weights, with the graph that they come from, in one file: a zip archive, not compressed.

Every other file is taken for a whole plan. Refuses a damaged archive, or one of anything else.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from service.errors import EngineFailed

PLAN, WEIGHTS = "engine.plan", "weights.onnx"
_MAGIC = b"PK\x03\x04"
_COPIED_BYTES = 1024 * 1024


def write_stripped(path: Path, plan: bytes | memoryview, weights: Path) -> None:
    """Equal content gives an equal file: entries have no time of day."""
    with ZipFile(path, "w", ZIP_STORED) as archive:
        with archive.open(_entry(PLAN), "w", force_zip64=True) as entry:
            entry.write(plan)
        with archive.open(_entry(WEIGHTS), "w", force_zip64=True) as entry, weights.open("rb") as source:
            while part := source.read(_COPIED_BYTES):
                entry.write(part)


def read_plan(path: Path) -> tuple[bytes, bytes | None]:
    """The plan, and the ONNX graph that it gets its weights from; None for a plan that holds them itself.

    Raises EngineFailed.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return path.read_bytes(), None
    try:
        with ZipFile(path) as archive:
            entries = archive.infolist()
            # Nothing in it is compressed, so that it unpacks to no more than itself.
            if [entry.filename for entry in entries] != [PLAN, WEIGHTS] or any(
                entry.compress_type for entry in entries
            ):
                raise BadZipFile(f"it holds {', '.join(entry.filename[:40] for entry in entries[:4]) or 'nothing'}")
            return archive.read(PLAN), archive.read(WEIGHTS)
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise EngineFailed(
            f"{path.name} is no weight-stripped engine of {PLAN} and {WEIGHTS}: {error}; quantize again on this host"
        ) from error


def _entry(name: str) -> ZipInfo:
    return ZipInfo(name)
