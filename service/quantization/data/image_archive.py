"""Reads pictures from an untrusted `.zip`, one folder a class; refuses path tricks and whatever is not a picture."""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.domain.limits import InferLimits, UploadLimits
from service.domain.model import Preprocessing
from service.domain.tensor import NUMPY_TYPES, TensorSpec
from service.errors import InvalidDataset, InvalidInput
from service.quantization.data.archive_members import opened_member
from service.quantization.data.preprocessing import decode_image, preprocess_image
from service.quantization.data.row_writer import RowWriter

# What desktop systems slip into archives beside the pictures.
_CLUTTER = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")
# A folder name that is its class's number; one of more digits is no label that 64 bits hold.
_NUMBER = re.compile(r"[0-9]{1,18}")
_MOST_TOLD = 20
_NAME_CHARACTERS = 40
_DATATYPES = ("FP32", "FP16", "FP64", "UINT8")


@dataclass(frozen=True)
class PictureRequest:
    """How pictures become rows of the array `name`, in `datatype`."""

    preprocessing: Preprocessing
    name: str
    datatype: str
    limits: InferLimits


@dataclass(frozen=True)
class _Picture:
    member: zipfile.ZipInfo
    folder: str


def copy_pictures(
    archive: zipfile.ZipFile,
    members: list[zipfile.ZipInfo],
    request: PictureRequest,
    target: tuple[RowWriter, UploadLimits],
) -> dict[str, int]:
    """Writes one row a picture, and its folder's label; returns the label of each folder. Raises InvalidDataset."""
    writer, limits = target
    if request.datatype not in _DATATYPES:
        raise InvalidDataset(
            f"the model's input {request.name!r} is {request.datatype}, which no picture fills; send an .npz"
        )
    pictures = _pictures(members)
    if not pictures or len(pictures) > limits.max_rows:
        raise InvalidDataset(f"the archive holds {len(pictures)} images; send 1 to {limits.max_rows}")
    label_of = folder_labels({picture.folder for picture in pictures})
    writer.expect(len(pictures), 1)
    rows = (_row(archive, picture.member, request) for picture in pictures)
    first = next(rows)
    spec = TensorSpec(request.name, request.datatype, (-1, *first.shape[1:]))
    writer.write_array(spec, _with_first(first, rows))
    writer.write_labels(np.array([label_of[picture.folder] for picture in pictures], np.int64))
    return label_of


def folder_labels(folders: Set[str]) -> dict[str, int]:
    """The label of each class folder: its number where all are numbers, else its place in alphabetical order.

    Raises InvalidDataset where two folders are one number.
    """
    if not all(_NUMBER.fullmatch(folder) for folder in folders):
        return {folder: label for label, folder in enumerate(sorted(folders))}
    numbers: dict[int, str] = {}
    for folder in sorted(folders):
        earlier = numbers.setdefault(int(folder), folder)
        if earlier != folder:
            raise InvalidDataset(
                f"the class folders {earlier!r} and {folder!r} are one number; put their pictures into one folder"
            )
    return {numbers[label]: label for label in sorted(numbers)}


def label_warnings(label_of: Mapping[str, int]) -> list[str]:
    """What to say of labels that folder names alone do not state: which one each folder got."""
    if all(_NUMBER.fullmatch(folder) for folder in label_of):
        return []
    told = [f"{folder[:_NAME_CHARACTERS]!r} is {label}" for folder, label in label_of.items()]
    if len(told) > _MOST_TOLD:
        told = [*told[: _MOST_TOLD - 1], f"and so on to {told[-1]}"]
    return [
        f"labels are the class folders' places in alphabetical order: {', '.join(told)}; where the model's classes are "
        "in another order, name each folder by the number of its class, from 0, and send the pictures again"
    ]


def _with_first(first: npt.NDArray[Any], rest: Iterator[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    yield first
    yield from rest


def _pictures(members: list[zipfile.ZipInfo]) -> list[_Picture]:
    parts = {member.filename: _safe_parts(member) for member in members if not _is_clutter(member.filename)}
    roots = {names[0] for names in parts.values()}
    # Zipping a folder of class folders puts that folder's name before all of them: it is no class.
    skipped = 1 if len(roots) == 1 and all(len(names) == 3 for names in parts.values()) else 0
    pictures = []
    for member in sorted(members, key=lambda entry: entry.filename):
        names = parts.get(member.filename)
        if names is None:
            continue
        if len(names) - skipped != 2:
            raise InvalidDataset(f"member {member.filename[:120]!r} is in no class folder; name it class/picture.png")
        pictures.append(_Picture(member, names[skipped]))
    return pictures


def _is_clutter(name: str) -> bool:
    return name.startswith(_CLUTTER[0]) or name.rsplit("/", 1)[-1] in _CLUTTER[1:]


def _safe_parts(member: zipfile.ZipInfo) -> list[str]:
    name = member.filename
    parts = name.split("/")
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    bad_part = any(part in ("", ".", "..") or len(part) > 255 for part in parts)
    if is_link or bad_part or not name.isprintable() or "\\" in name or ":" in name:
        raise InvalidDataset(
            f"member {name[:120]!r} has an unsafe name or is a link; name it class/picture.png, with no '..', no "
            "backslash and no leading slash"
        )
    return parts


def _row(archive: zipfile.ZipFile, member: zipfile.ZipInfo, request: PictureRequest) -> npt.NDArray[Any]:
    """One picture as a batch of one row."""
    with opened_member(archive, member) as stream:
        data = stream.read(request.limits.max_image_bytes + 1)
    try:
        values = preprocess_image(decode_image(data, request.limits), request.preprocessing)
    except InvalidInput as error:
        raise InvalidDataset(f"member {member.filename[:120]!r}: {error}") from error
    if request.datatype == "UINT8":
        return np.rint(values).clip(0, 255).astype(np.uint8)
    return values.astype(NUMPY_TYPES[request.datatype])
