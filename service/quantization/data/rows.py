"""Reads a canonical dataset a few rows at a time from a memory map and feeds them to a model in the shape it takes."""

from __future__ import annotations

import hashlib
import mmap
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.domain.tensor import NUMPY_TYPES, TensorSpec
from service.errors import InvalidDataset
from service.quantization.recipes import check_dataset_fits, rows_per_run

Array = npt.NDArray[Any]
_LOCAL_HEADER_BYTES = 30
_FORGET_ROWS = 64
_BATCH_BYTES = 32 * 1024 * 1024
_MAX_BATCH_ROWS = 32
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Rows:
    """Arrays by name, rows first, mapped from the file; `labels` is INT64 [rows] or None."""

    name: str
    arrays: dict[str, Array]
    labels: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @staticmethod
    def open(path: Path, name: str) -> Rows:
        """Maps an uncompressed `.npz`; nothing is read until rows are taken. `name` is for messages."""
        arrays: dict[str, Array] = {}
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for member in archive.infolist():
                file.seek(member.header_offset)
                name_bytes, extra_bytes = struct.unpack("<HH", file.read(_LOCAL_HEADER_BYTES)[26:30])
                file.seek(name_bytes + extra_bytes, 1)
                shape, _, dtype = _READERS[np.lib.format.read_magic(file)](file)
                arrays[member.filename.removesuffix(".npy")] = np.memmap(path, dtype, "r", file.tell(), shape)
        labels = arrays.pop("labels", None)
        return Rows(name, arrays, None if labels is None else np.asarray(labels, np.int64))

    def only(self, names: Iterable[str]) -> Rows:
        """The rows without arrays that the model does not take: a number of each row would tell equal rows apart."""
        return Rows(self.name, {name: self.arrays[name] for name in names}, self.labels)

    def digests(self) -> set[bytes]:
        """A hash of each row's inputs, to find rows that two datasets share."""
        return set(self.row_digests(len(self)))

    def row_digests(self, limit: int) -> list[bytes]:
        """The hashes of the first `limit` rows, in their order."""
        names = sorted(self.arrays)
        found = []
        for row in range(min(limit, len(self))):
            joined = b"".join(self.arrays[name][row].tobytes() for name in names)
            found.append(hashlib.blake2b(joined, digest_size=12).digest())
            if row % _FORGET_ROWS == 0:
                self.forget()
        self.forget()
        return found

    def forget(self) -> None:
        """Gives the pages read so far back, for a mapped file that was read once would count as memory held."""
        for array in self.arrays.values():
            if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
                array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def specs(self) -> dict[str, TensorSpec]:
        names = {dtype: name for name, dtype in NUMPY_TYPES.items() if name not in ("BF16", "BYTES")}
        return {
            name: TensorSpec(name, names[array.dtype], (-1, *array.shape[1:])) for name, array in self.arrays.items()
        }


@dataclass(frozen=True)
class Feed:
    """Takes rows of a dataset as batches for one model; `fixed` is the only batch size it takes, 0 where it varies."""

    rows: Rows
    inputs: tuple[TensorSpec, ...]
    fixed: int

    @staticmethod
    def of(rows: Rows, inputs: Sequence[TensorSpec]) -> Feed:
        """Raises InvalidDataset where the dataset's arrays do not fit the inputs, or cannot be cut alike for all."""
        specs = rows.specs()
        check_dataset_fits(rows.name, specs, inputs)
        counts = {rows_per_run(specs[spec.name].shape[1:], spec) for spec in inputs} - {0}
        if len(counts) > 1:
            shown = " and ".join(sorted(map(str, counts)))
            raise InvalidDataset(f"the model's inputs take {shown} rows at once; give all inputs one batch size")
        fixed = counts.pop() if counts else 0
        if fixed and len(rows) < fixed:
            raise InvalidDataset(f"the model takes {fixed} rows at once but the data has {len(rows)}; send more rows")
        return Feed(rows.only(spec.name for spec in inputs), tuple(inputs), fixed or 0)

    def batch_rows(self, wanted: int) -> int:
        """The batch size nearest to `wanted` that the model takes and the dataset can fill."""
        return self.fixed or min(wanted, len(self.rows))

    def affordable_rows(self) -> int:
        """Rows a batch, 32 at most, such that its inputs stay within 32 MiB."""
        count = self.batch_rows(1)
        # An input may be a single number, without an axis to take a row from.
        row_bytes = sum(array.nbytes for array in self.take(0, count).values()) // count
        return self.batch_rows(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1))))

    def take(self, start: int, count: int) -> dict[str, Array]:
        """Rows start to start + count as the model's inputs, copied out of the map."""
        batch: dict[str, Array] = {}
        for spec in self.inputs:
            array = self.rows.arrays[spec.name]
            whole = not spec.batched and spec.accepts(array.shape[1:])
            batch[spec.name] = np.array(array[start] if whole else array[start : start + count], order="C")
        return batch

    def filled(self, count: int) -> dict[str, Array]:
        """A batch of `count` rows even from fewer: the first rows repeat. A fixed batch keeps its own size."""
        if self.fixed or count <= len(self.rows):
            return self.take(0, self.fixed or count)
        whole = self.take(0, len(self.rows))
        return {name: np.resize(rows, (count, *rows.shape[1:])) for name, rows in whole.items()}

    def covered(self, limit: int) -> int:
        """How many rows `batches` gives of the first `limit`: whole batches of a fixed size, and one at least."""
        total = min(limit, len(self.rows))
        return max(self.fixed, total - total % self.fixed) if self.fixed else total

    def batches(self, limit: int, size: int, first: int = 0) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """(start, count, inputs) from row `first` up to the first `limit` rows; a fixed batch leaves out the rows that
        fill none.
        """
        step = self.batch_rows(size)
        total = self.covered(limit)
        for start in range(first, total, step):
            count = min(step, total - start)
            yield start, count, self.take(start, count)
