"""Checks an uploaded dataset, before anything trusts it, and writes it in the one form that later steps read.

Takes an `.npz` of arrays or a `.zip` of pictures in one folder a class. Never unpickles, never unpacks to a path that
the archive names, and holds a few rows in memory at a time.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.domain.limits import InferLimits, UploadLimits
from service.domain.model import Preprocessing
from service.domain.tensor import TensorSpec
from service.errors import InvalidDataset
from service.quantization.data.archive_members import opened_archive
from service.quantization.data.image_archive import PictureRequest, copy_pictures, label_warnings
from service.quantization.data.npz_archive import copy_arrays
from service.quantization.data.row_writer import RowWriter
from service.quantization.recipes import check_dataset_fits

# An archive this small is no bomb, however well it packs: a mask of zeros packs a thousandfold.
_BOMB_FLOOR_BYTES = 16 * 1024 * 1024
_STARTS = ((b"\x93NUMPY", "a single .npy array"), (b"\x80", "a pickle"), (b"\x1f\x8b", "a gzip file"))
_NEXT_STEP = "send an .npz written by numpy.savez, or a .zip of images in one folder a class"


def inspect_dataset(arguments: dict[str, Any], report_progress: Callable[[float], None]) -> dict[str, Any]:
    """Checks the file at `path` and writes it as an uncompressed `.npz` to `destination`.

    Arguments: path, destination; preprocessing (JSON or None) and input (a model's only input, or None);
    upload_limits and infer_limits (fields of those classes to change, may be left out).
    Returns rows, arrays (name to spec), labels, classes (the label of each folder of pictures, or None) and warnings.
    Raises InvalidDataset, or StorageFull.
    """
    path, destination = Path(arguments["path"]), Path(arguments["destination"])
    limits = UploadLimits(**arguments.get("upload_limits", {}))
    wanted = TensorSpec.from_json(arguments["input"]) if arguments.get("input") else None
    _refuse_other_formats(path)
    with opened_archive(path, _NEXT_STEP) as archive, RowWriter(destination, report_progress) as writer:
        members = _checked_members(archive, path, limits)
        classes = None
        if all(member.filename.endswith(".npy") for member in members):
            copy_arrays(archive, members, writer, limits)
        else:
            request = _picture_request(arguments, wanted)
            classes = copy_pictures(archive, members, request, (writer, limits))
        if wanted is not None:
            check_dataset_fits("uploaded", writer.arrays, [wanted])
    return {
        "rows": writer.rows,
        "arrays": {name: spec.to_json() for name, spec in writer.arrays.items()},
        "labels": writer.has_labels,
        "classes": classes,
        "warnings": [*writer.warnings(), *label_warnings(classes or {})],
    }


def _picture_request(arguments: dict[str, Any], wanted: TensorSpec | None) -> PictureRequest:
    if not arguments.get("preprocessing"):
        raise InvalidDataset(
            "the archive is not an .npz, and images need a preprocessing; send preprocessing, or the model whose own "
            f"it borrows, or {_NEXT_STEP}"
        )
    return PictureRequest(
        Preprocessing.from_json(arguments["preprocessing"]),
        name="input" if wanted is None else wanted.name,
        datatype="FP32" if wanted is None else wanted.datatype,
        limits=InferLimits(**arguments.get("infer_limits", {})),
    )


def _refuse_other_formats(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise InvalidDataset(f"the file is empty; {_NEXT_STEP}")
    for magic, kind in _STARTS:
        if start.startswith(magic):
            raise InvalidDataset(f"the file is {kind}; {_NEXT_STEP}")


def _checked_members(archive: zipfile.ZipFile, path: Path, limits: UploadLimits) -> list[zipfile.ZipInfo]:
    """The archive's files, none encrypted, named twice or packed in a way that hides their size."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    if not members:
        raise InvalidDataset(f"the archive holds no files; {_NEXT_STEP}")
    if len(members) > limits.max_archive_members:
        raise InvalidDataset(f"the archive holds {len(members)} files; send at most {limits.max_archive_members}")
    seen: set[str] = set()
    for member in members:
        if member.filename in seen:
            raise InvalidDataset(f"the archive holds {member.filename[:120]!r} twice; give every file its own name")
        seen.add(member.filename)
        if member.flag_bits & 0x1:
            raise InvalidDataset(f"member {member.filename[:120]!r} is encrypted; send it without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidDataset(f"member {member.filename[:120]!r} is not packed by deflate; use numpy.savez or zip")
    _refuse_bomb(sum(member.file_size for member in members), path.stat().st_size, limits)
    return members


def _refuse_bomb(unpacked: int, packed: int, limits: UploadLimits) -> None:
    if unpacked > limits.max_unpacked_bytes:
        raise InvalidDataset(f"the archive unpacks to {unpacked} bytes; send at most {limits.max_unpacked_bytes}")
    if unpacked > _BOMB_FLOOR_BYTES and unpacked > packed * limits.max_unpacked_ratio:
        raise InvalidDataset(
            f"the archive's {packed} bytes unpack to {unpacked}, over {limits.max_unpacked_ratio:g} times as many; "
            "send it uncompressed (numpy.savez)"
        )
