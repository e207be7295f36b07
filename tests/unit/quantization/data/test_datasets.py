"""Untrusted archives of arrays: sound ones become one canonical file, others are refused and leave nothing behind."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.tensor import TensorSpec
from service.errors import InvalidDataset, StorageFull
from service.quantization.data.datasets import inspect_dataset

IMAGES = np.arange(24, dtype=np.float32).reshape(6, 1, 2, 2)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


def members(**contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def inspect(folder: Path, data: bytes, **arguments: Any) -> dict[str, Any]:
    (folder / "upload").write_bytes(data)
    known = {"path": str(folder / "upload"), "destination": str(folder / "rows.npz"), "preprocessing": None}
    return inspect_dataset(known | {"input": None} | arguments, lambda fraction: None)


def test_arrays_and_labels_come_out_as_they_went_in(tmp_path: Path) -> None:
    found = inspect(tmp_path, npz(input=IMAGES, mask=np.array([True, False] * 3), labels=np.arange(6, dtype=np.uint8)))
    assert found == {
        "rows": 6,
        "arrays": {
            "input": {"name": "input", "datatype": "FP32", "shape": [-1, 1, 2, 2]},
            "mask": {"name": "mask", "datatype": "BOOL", "shape": [-1]},
        },
        "labels": True,
        "classes": None,
        "warnings": [],
    }
    with np.load(tmp_path / "rows.npz") as kept:
        assert (kept["input"] == IMAGES).all()
        assert kept["labels"].dtype == np.int64


def test_equal_rows_give_equal_bytes_however_they_were_packed(tmp_path: Path) -> None:
    fortran = np.asfortranarray(IMAGES)
    big_endian = IMAGES.astype(">f4")
    kept = []
    for array in (IMAGES, fortran, big_endian):
        inspect(tmp_path, npz(input=array))
        kept.append((tmp_path / "rows.npz").read_bytes())
    assert kept[0] == kept[1] == kept[2]


def test_progress_rises_to_one(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(npz(a=IMAGES, b=IMAGES))
    seen: list[float] = []
    inspect_dataset({"path": str(tmp_path / "upload"), "destination": str(tmp_path / "rows.npz")}, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def test_pickled_objects_are_refused_without_being_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    data = npz(input=np.array([Trap(trap)], dtype=object))
    with pytest.raises(InvalidDataset, match="array 'input' holds pickled Python objects"):
        inspect(tmp_path, data)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty; send an .npz"),
        (b"neither zip nor anything", "no readable archive"),
        (npy(IMAGES), "the file is a single .npy array"),
        (b"\x80\x04.", "the file is a pickle"),
        (npz(input=IMAGES)[:-30], "no readable archive, or it is cut off"),
        (members(), "holds no files"),
        (members(**{"input.npy": b"\x93NUMPY\x01\x00\x05\x00junk!"}), "array 'input' has no valid .npy header"),
        (members(**{"input.npy": b"not numpy"}), "array 'input' has no valid .npy header"),
        (members(**{"input.npy": npy(IMAGES)[:-8]}), "declares .* but its file has"),
        (members(**{"input.npy": npy(IMAGES) + b"more"}), "declares .* but its file has"),
        (members(**{"../input.npy": npy(IMAGES)}), "an array is named '../input'"),
        (members(**{"/input.npy": npy(IMAGES)}), "an array is named '/input'"),
        (members(**{"a\\b.npy": npy(IMAGES)}), r"an array is named 'a\\\\b'"),
        (members(**{".npy": npy(IMAGES)}), "an array is named ''"),
        (members(**{"n" * 300 + ".npy": npy(IMAGES)}), r"\(300 characters\)"),
        (members(**{"a\tb.npy": npy(IMAGES)}), "printable characters"),
        (npz(input=IMAGES[:0]), r"has shape \[0, 1, 2, 2\], no rows"),
        (npz(input=np.float32(3)), r"has shape \[\]; send rows on the first"),
        (npz(input=np.zeros((1,) * 9, np.float32)), "of 1 to 8 axes"),
        (npz(a=IMAGES, b=IMAGES[:3]), "rows differ: a 6, b 3"),
        (npz(labels=np.arange(3)), "holds labels only"),
        (npz(input=IMAGES.astype(np.complex64)), "has dtype complex64; save it as one of bool"),
        (
            npz(input=np.array(["a", "b"])),
            "array 'input' holds text, dtype <U1, which no dataset can: a model that takes",
        ),
        (npz(input=np.zeros(3, [("x", "f4")])), "has dtype"),
        (npz(input=np.array([1, np.nan, 2], np.float32)), "array 'input' holds nan in row 1"),
        (npz(input=np.array([[1, 2], [3, -np.inf]], np.float16)), "array 'input' holds -inf in row 1"),
        (npz(input=IMAGES, labels=np.zeros((6, 1), int)), r"labels are int64 of shape \[6, 1\]; send one integer"),
        (npz(input=IMAGES, labels=np.zeros(6)), "labels are float64"),
        (npz(input=IMAGES, labels=np.array([0, 1, 2, 3, 4, -1])), "labels run from -1 to 4"),
        (npz(input=IMAGES, labels=np.array([0, 1, 2, 3, 4, 2**63], np.uint64)), "labels run from 0 to 922337203685"),
        (npz(input=IMAGES, labels=np.arange(5)), "rows differ: input 6, labels 5"),
        (npz(**{f"a{number}": IMAGES for number in range(66)}), "holds 66 arrays; send at most 65"),
    ],
)
def test_an_unsound_archive_is_refused_and_leaves_nothing_behind(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InvalidDataset, match=words):
        inspect(tmp_path, data)
    assert os.listdir(tmp_path) == ["upload"]


def test_a_member_named_twice_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", npy(IMAGES))
        archive.writestr("b.npy", npy(IMAGES))
    data = buffer.getvalue().replace(b"b.npy", b"a.npy")
    with pytest.raises(InvalidDataset, match=r"holds 'a.npy' twice"):
        inspect(tmp_path, data)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    data = bytearray(members(**{"a.npy": npy(IMAGES)}))
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InvalidDataset, match="is encrypted; send it without a password"):
        inspect(tmp_path, bytes(data))


def test_a_corrupted_member_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, input=IMAGES)
    data = bytearray(buffer.getvalue())
    data[data.find(b"\x93NUMPY") + 128] ^= 0xFF
    with pytest.raises(InvalidDataset, match=r"no readable archive|Bad CRC"):
        inspect(tmp_path, bytes(data))


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    data = npz(input=np.zeros((32, 1024, 1024), np.uint8))
    with pytest.raises(InvalidDataset, match=r"unpack to \d+, over 200 times as many; send it uncompressed"):
        inspect(tmp_path, data)
    with pytest.raises(InvalidDataset, match=r"unpacks to .* bytes; send at most 1000000"):
        inspect(tmp_path, data, upload_limits={"max_unpacked_bytes": 1_000_000})


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -1, -2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}",
        "{'descr': (",
        "{'descr': '''",
        "{'descr': (), 'fortran_order': False, 'shape': (4,)}",
        "-" * 9000 + "1",
    ],
)
def test_a_header_that_no_numpy_writes_is_refused_by_the_name_of_its_array(header: str, tmp_path: Path) -> None:
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(InvalidDataset, match=r"array 'input' has no valid \.npy header"):
        inspect(tmp_path, members(**{"input.npy": start + bytes(16)}))


def test_a_header_that_claims_terabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    header = npy(IMAGES)[:128].replace(b"(6, 1, 2, 2)", b"(6666666666,)")
    with pytest.raises(InvalidDataset, match=r"declares \[6666666666\]|no valid .npy header"):
        inspect(tmp_path, members(**{"input.npy": header}))


def test_limits_on_rows_members_and_labels_hold(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="has 6 rows; send at most 5"):
        inspect(tmp_path, npz(input=IMAGES), upload_limits={"max_rows": 5})
    with pytest.raises(InvalidDataset, match="holds 2 files; send at most 1"):
        inspect(tmp_path, npz(a=IMAGES, b=IMAGES), upload_limits={"max_archive_members": 1})
    with pytest.raises(InvalidDataset, match="send class numbers from 0 to 3"):
        inspect(tmp_path, npz(input=IMAGES, labels=np.full(6, 4)), upload_limits={"max_labels": 4})


def test_rows_that_do_not_fit_the_named_model_are_refused(tmp_path: Path) -> None:
    wanted = TensorSpec("pixels", "FP32", (-1, 1, 2, 2)).to_json()
    with pytest.raises(InvalidDataset, match="no array 'pixels', only input"):
        inspect(tmp_path, npz(input=IMAGES), input=wanted)
    assert not (tmp_path / "rows.npz").exists()


def test_repeated_and_constant_rows_are_warned_of(tmp_path: Path) -> None:
    rows = np.stack([IMAGES[0], IMAGES[0], IMAGES[1], np.full_like(IMAGES[0], 7)])
    assert inspect(tmp_path, npz(input=rows))["warnings"] == [
        "1 of 4 rows repeat an earlier row; repeated rows add no evidence",
        "1 of 4 rows hold one value everywhere; check that their sources loaded",
    ]


def test_a_row_is_repeated_only_where_every_array_repeats(tmp_path: Path) -> None:
    assert inspect(tmp_path, npz(a=IMAGES[[0, 0, 1]], b=IMAGES[:3]))["warnings"] == []


def test_a_constant_array_is_warned_of(tmp_path: Path) -> None:
    found = inspect(tmp_path, npz(input=IMAGES, flag=np.ones((6, 2), np.float32)))
    assert found["warnings"] == ["array 'flag' holds one value everywhere; check how it was made"]


def test_a_full_disk_is_told_as_such_and_leaves_nothing(tmp_path: Path) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("this system has no /dev/full")
    (tmp_path / ".rows.npz.partial").symlink_to("/dev/full")
    with pytest.raises(StorageFull, match=r"no space to write rows.npz.*free disk space"):
        inspect(tmp_path, npz(input=IMAGES))
    assert os.listdir(tmp_path) == ["upload"]


@given(st.binary(max_size=300), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_a_damaged_archive_never_does_worse_than_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, start: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = npz(input=IMAGES)
    try:
        inspect(folder, whole[:start] + noise + whole[start + len(noise) :])
    except InvalidDataset:
        assert os.listdir(folder) == ["upload"]
