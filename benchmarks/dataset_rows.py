"""Rows of a dataset as Octavo keeps an uploaded one: an uncompressed .npz, written a few rows at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 32


def take_rows(source: Path, rows: int, target: Path) -> None:
    """Writes the first `rows` rows of every array; where there are fewer, they repeat, shifted by a step each time.

    So every row is another one, which is all that a measurement of time and memory needs.
    """
    with np.load(source) as arrays, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in arrays.files:
            array = arrays[name]
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                shape = (rows, *array.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(stream, header)
                for chunk in _chunks(array, rows):
                    stream.write(chunk.tobytes())


def _chunks(array: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    for start in range(0, rows, _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, rows))
        chunk = array[indices % len(array)]
        for again, index in enumerate(indices // len(array)):
            chunk[again] = np.roll(chunk[again], index, axis=-1) if chunk[again].ndim else chunk[again]
        yield chunk
