"""Writes a dataset as an uncompressed `.npz`, chunk by chunk, and watches the rows for what spoils calibration.

Equal rows give equal bytes: the archive holds no times. Refuses NaN and infinity.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from service.domain.tensor import TensorSpec
from service.errors import InvalidDataset
from service.quantization.atomic_files import replacing

Array = npt.NDArray[Any]


class RowWriter:
    """A context that leaves the whole file, or none. Call `expect` once, then write each array."""

    def __init__(self, destination: Path, report_progress: Callable[[float], None]) -> None:
        self._destination = destination
        self._report_progress = report_progress
        self._stack = ExitStack()
        self._archive: zipfile.ZipFile
        self._planned_arrays = 1
        self._hashes: npt.NDArray[np.uint64]
        self._row_is_constant: npt.NDArray[np.bool_]
        self._constant_arrays: list[str] = []
        self.rows = 0
        self.has_labels = False
        self.arrays: dict[str, TensorSpec] = {}

    def __enter__(self) -> Self:
        partial = self._stack.enter_context(replacing(self._destination))
        self._archive = self._stack.enter_context(zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def expect(self, rows: int, arrays: int) -> None:
        """States how many rows each array will have and how many arrays will come."""
        self.rows, self._planned_arrays = rows, arrays
        self._hashes = np.zeros(rows, np.uint64)
        self._row_is_constant = np.ones(rows, np.bool_)

    def write_array(self, spec: TensorSpec, chunks: Iterable[Array]) -> None:
        """Writes one input's rows, which together are `rows` rows of the spec's shape and type."""
        written, first = 0, None
        constant = True
        with self._member(spec.name, spec.dtype, (self.rows, *spec.shape[1:])) as stream:
            for chunk in chunks:
                _check_finite(spec.name, chunk, written)
                first = chunk.reshape(-1)[:1].copy() if first is None else first
                constant = constant and bool((chunk == first).all())
                self._observe(chunk, written)
                stream.write(chunk.tobytes())
                written += len(chunk)
                self._report_progress((len(self.arrays) + written / self.rows) / self._planned_arrays)
        if constant and math.prod((self.rows, *spec.shape[1:])) > 1:
            self._constant_arrays.append(spec.name)
        self.arrays[spec.name] = spec

    def write_labels(self, labels: npt.NDArray[np.int64]) -> None:
        with self._member("labels", labels.dtype, labels.shape) as stream:
            stream.write(labels.tobytes())
        self.has_labels = True

    def warnings(self) -> list[str]:
        """What looks wrong with the rows, a sentence each."""
        found = [f"array {name!r} holds one value everywhere; check how it was made" for name in self._constant_arrays]
        repeated = self.rows - len(np.unique(self._hashes))
        if repeated:
            found.append(f"{repeated} of {self.rows} rows repeat an earlier row; repeated rows add no evidence")
        constant = int(self._row_is_constant.sum())
        if constant and not self._constant_arrays:
            found.append(f"{constant} of {self.rows} rows hold one value everywhere; check that their sources loaded")
        return found

    def _member(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> IO[bytes]:
        stream = self._archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
        description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(stream, description)
        return stream

    def _observe(self, chunk: Array, start: int) -> None:
        for offset, row in enumerate(chunk):
            digest = hashlib.blake2b(row.tobytes(), digest_size=8, key=int(self._hashes[start + offset]).to_bytes(8))
            self._hashes[start + offset] = int.from_bytes(digest.digest())
        flat = chunk.reshape(len(chunk), -1)
        if flat.shape[1] > 1:
            self._row_is_constant[start : start + len(chunk)] &= (flat == flat[:, :1]).all(axis=1)
        else:
            self._row_is_constant[start : start + len(chunk)] = False


def _check_finite(name: str, chunk: Array, start: int) -> None:
    if chunk.dtype.kind != "f" or np.isfinite(chunk).all():
        return
    row, *position = (int(index) for index in np.argwhere(~np.isfinite(chunk))[0])
    value = chunk[(row, *position)]
    raise InvalidDataset(f"array {name!r} holds {value} in row {start + row}; send finite numbers only")
