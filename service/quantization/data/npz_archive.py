"""Reads the arrays of an untrusted `.npz` header first, then chunk by chunk; refuses pickles and dishonest sizes."""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from service.domain.limits import UploadLimits
from service.domain.tensor import NUMPY_TYPES, TensorSpec
from service.errors import InvalidDataset
from service.quantization.data.archive_members import opened_member
from service.quantization.data.row_writer import RowWriter

LABELS = "labels"
MAX_ARRAYS = 65
MAX_NAME_CHARACTERS = 255
MAX_RANK = 8
_CHUNK_BYTES = 8 * 1024 * 1024
# What reading a header of at most 10,000 characters may raise; memory runs out there by nesting alone.
_HEADER_ERRORS = (
    ValueError, LookupError, TypeError, SyntaxError, RecursionError, OverflowError, MemoryError, tokenize.TokenError,
)  # fmt: skip
_DATATYPES = {dtype: name for name, dtype in NUMPY_TYPES.items() if name not in ("BF16", "BYTES")}


@dataclass(frozen=True)
class _Array:
    """One member's header: `dtype` in the machine's byte order, `stored` as in the file."""

    name: str
    member: zipfile.ZipInfo
    stored: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored.newbyteorder("=")

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.stored.itemsize


def copy_arrays(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], writer: RowWriter, limits: UploadLimits
) -> None:
    """Copies every array to the writer. Raises InvalidDataset naming the array, its value and the next step."""
    if len(members) > MAX_ARRAYS:
        raise InvalidDataset(f"the .npz holds {len(members)} arrays; send at most {MAX_ARRAYS}")
    headers = [_header(archive, member) for member in members]
    rows = _common_rows(headers, limits)
    inputs = [header for header in headers if header.name != LABELS]
    if not inputs:
        raise InvalidDataset("the .npz holds labels only; add one array for each input of the model")
    writer.expect(rows, len(inputs))
    for header in headers:
        if header.name == LABELS:
            writer.write_labels(_labels(archive, header, limits))
        else:
            spec = TensorSpec(header.name, _datatype(header), (-1, *header.shape[1:]))
            writer.write_array(spec, _chunks(archive, header))


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Array:
    name = _checked_array_name(member.filename.removesuffix(".npy"))
    with opened_member(archive, member) as stream:
        shape, fortran, dtype = _read_header(stream, name)
        size = stream.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise InvalidDataset(f"array {name!r} holds pickled Python objects; save it as numbers of one type")
    if size != member.file_size:
        raise InvalidDataset(
            f"array {name!r} declares {list(shape)} of {dtype} but its file has {member.file_size} bytes instead of "
            f"{size}; write the .npz again"
        )
    return _Array(name, member, dtype, shape, fortran)


def _read_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(stream)
            shape, fortran, dtype = readers[version](stream)
        if any(type(extent) is not int or extent < 0 for extent in shape):
            raise ValueError(f"the shape is {shape}")
    except _HEADER_ERRORS as error:
        raise InvalidDataset(
            f"array {name!r} has no valid .npy header: {error!s:.200}; write the .npz with numpy.savez"
        ) from error
    return tuple(shape), bool(fortran), dtype


def _checked_array_name(name: str) -> str:
    tricks = "\\" in name or name.startswith("/") or ".." in name.split("/")
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or tricks:
        raise InvalidDataset(
            f"an array is named {name[:80]!r} ({len(name)} characters); name it after a model input, with 1 to "
            f"{MAX_NAME_CHARACTERS} printable characters"
        )
    return name


def _common_rows(headers: list[_Array], limits: UploadLimits) -> int:
    for header in headers:
        if not 1 <= len(header.shape) <= MAX_RANK:
            raise InvalidDataset(
                f"array {header.name!r} has shape {list(header.shape)}; send rows on the first of 1 to {MAX_RANK} axes"
            )
        if 0 in header.shape:
            raise InvalidDataset(f"array {header.name!r} has shape {list(header.shape)}, no rows; send at least one")
    counts = {header.name: header.shape[0] for header in headers}
    rows = max(counts.values())
    if min(counts.values()) != rows:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InvalidDataset(
            f"the arrays' rows differ: {shown}; send as many rows of each, on the first axis, and export a model whose "
            "batch is another axis with the batch first"
        )
    if rows > limits.max_rows:
        raise InvalidDataset(f"the dataset has {rows} rows; send at most {limits.max_rows}")
    return rows


def _datatype(header: _Array) -> str:
    if header.stored.kind in "SU":
        raise InvalidDataset(
            f"array {header.name!r} holds text, dtype {header.stored}, which no dataset can: a model that takes text "
            "is served as it was uploaded, and no engine of it can be proven"
        )
    if header.dtype not in _DATATYPES:
        known = ", ".join(str(dtype) for dtype in _DATATYPES)
        raise InvalidDataset(f"array {header.name!r} has dtype {header.stored}; save it as one of {known}")
    return _DATATYPES[header.dtype]


def _labels(archive: zipfile.ZipFile, header: _Array, limits: UploadLimits) -> npt.NDArray[np.int64]:
    if header.stored.kind not in "iu" or len(header.shape) != 1:
        raise InvalidDataset(
            f"labels are {header.stored} of shape {list(header.shape)}; send one integer a row, shape [rows]"
        )
    values = np.concatenate(list(_chunks(archive, header)))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= limits.max_labels:
        raise InvalidDataset(f"labels run from {low} to {high}; send class numbers from 0 to {limits.max_labels - 1}")
    return values.astype(np.int64)


def _chunks(archive: zipfile.ZipFile, header: _Array) -> Iterator[npt.NDArray[Any]]:
    """The array's rows in order, at most a few MiB at a time; a column-major array comes whole."""
    step = header.shape[0] if header.fortran else max(1, _CHUNK_BYTES // header.row_bytes)
    order = "F" if header.fortran else "C"
    with opened_member(archive, header.member) as stream:
        _read_header(stream, header.name)
        for start in range(0, header.shape[0], step):
            rows = min(step, header.shape[0] - start)
            values = np.frombuffer(_read_exactly(stream, rows * header.row_bytes), header.stored)
            shaped = values.reshape((rows, *header.shape[1:]), order=order)  # type: ignore[call-overload]
            yield np.ascontiguousarray(shaped, dtype=header.dtype)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise InvalidDataset(f"the archive ends {size - len(data)} bytes early; send the whole file")
    return data
