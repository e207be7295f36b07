"""Untrusted archives of pictures: one folder a class, and every refusal names the member."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.errors import InvalidDataset
from service.quantization.data.datasets import inspect_dataset
from tests.unit.quantization.pictures import encoded, gradient, png_claiming

DESCRIPTION: dict[str, Any] = {
    "task": "classification", "width": 4, "height": 4, "layout": "NCHW", "color": "RGB", "resize": "stretch",
    "scale": 1.0, "mean": [0.0], "std": [1.0],
}  # fmt: skip
CAT, DOG = encoded(gradient()), encoded(gradient()[:, ::-1], ".jpg")
DARK = encoded(np.zeros((5, 5, 3), np.uint8))


def archive(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in contents.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def inspect(folder: Path, data: bytes, **arguments: Any) -> dict[str, Any]:
    (folder / "upload").write_bytes(data)
    known = {"path": str(folder / "upload"), "destination": str(folder / "rows.npz"), "preprocessing": DESCRIPTION}
    return inspect_dataset(known | {"input": None} | arguments, lambda fraction: None)


TOLD = "labels are the class folders' places in alphabetical order: 'cat' is 0, 'dog' is 1; where the model's classes"


def test_named_folders_are_labelled_in_alphabetical_order_and_that_is_told(tmp_path: Path) -> None:
    found = inspect(tmp_path, archive({"dog/b.jpg": DOG, "cat/a.png": CAT, "dog/a.png": DARK}))
    assert found["classes"] == {"cat": 0, "dog": 1}
    assert found["warnings"][-1].startswith(TOLD)
    assert found["arrays"] == {"input": {"name": "input", "datatype": "FP32", "shape": [-1, 3, 4, 4]}}
    with np.load(tmp_path / "rows.npz") as kept:
        assert kept["labels"].tolist() == [0, 1, 1]
        assert kept["input"].shape == (3, 3, 4, 4)
        assert (kept["input"][1] == 0).all()


def test_a_folder_around_all_classes_and_desktop_clutter_do_no_harm(tmp_path: Path) -> None:
    contents = {"pets/dog/a.jpg": DOG, "pets/cat/a.png": CAT, "pets/.DS_Store": b"x", "__MACOSX/pets/._a": b"x"}
    found = inspect(tmp_path, archive(contents))
    assert found["classes"] == {"cat": 0, "dog": 1}


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        ([str(number) for number in range(12)], list(range(12))),
        (["7", "3"], [3, 7]),
        (["007", "010", "3"], [3, 7, 10]),
    ],
)
def test_folders_that_are_numbers_are_the_classes_of_these_numbers(
    tmp_path: Path, folders: list[str], labels: list[int]
) -> None:
    found = inspect(tmp_path, archive({f"{folder}/a.png": CAT for folder in folders}))
    assert found["classes"] == {folder: int(folder) for folder in folders}
    assert not any("alphabetical" in words for words in found["warnings"])
    with np.load(tmp_path / "rows.npz") as kept:
        assert sorted(kept["labels"].tolist()) == labels


def test_each_picture_has_the_number_of_its_own_folder(tmp_path: Path) -> None:
    inspect(tmp_path, archive({"10/a.png": DARK, "2/a.png": CAT, "2/b.png": CAT}))
    with np.load(tmp_path / "rows.npz") as kept:
        dark = (kept["input"].reshape(3, -1) == 0).all(1)
        assert kept["labels"][dark].tolist() == [10]
        assert kept["labels"][~dark].tolist() == [2, 2]


@pytest.mark.parametrize("other", ["cat", "-1", "1.5", "1" * 19, "\u0661", "1 "])
def test_numbers_beside_another_name_are_names_as_well(tmp_path: Path, other: str) -> None:
    found = inspect(tmp_path, archive({"7/a.png": CAT, f"{other}/a.png": DOG}))
    assert sorted(found["classes"].values()) == [0, 1]
    assert f"{other[:40]!r} is {found['classes'][other]}" in found["warnings"][-1]


def test_two_folders_of_one_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="folders '01' and '1' are one number; put their pictures into one"):
        inspect(tmp_path, archive({"1/a.png": CAT, "01/a.png": DOG}))


def test_of_many_named_folders_the_first_and_the_last_are_told(tmp_path: Path) -> None:
    found = inspect(tmp_path, archive({f"class {number:03}/a.png": CAT for number in range(100)}))
    (told,) = [words for words in found["warnings"] if "alphabetical" in words]
    assert "'class 018' is 18, and so on to 'class 099' is 99; where" in told
    assert "class 019" not in told


def test_rows_take_the_name_and_type_of_the_models_input(tmp_path: Path) -> None:
    wanted = TensorSpec("pixels", "UINT8", (-1, 3, 4, 4)).to_json()
    found = inspect(tmp_path, archive({"cat/a.png": CAT}), input=wanted)
    assert found["arrays"] == {"pixels": wanted}
    with np.load(tmp_path / "rows.npz") as kept:
        assert kept["pixels"].dtype == np.uint8


def test_black_pictures_are_warned_of(tmp_path: Path) -> None:
    found = inspect(tmp_path, archive({"cat/a.png": CAT, "cat/b.png": DARK}))
    assert found["warnings"][:-1] == ["1 of 2 rows hold one value everywhere; check that their sources loaded"]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a.png": CAT}, "member 'a.png' is in no class folder; name it class/picture.png"),
        ({"a/b/c.png": CAT, "d/e.png": DOG}, "member 'a/b/c.png' is in no class folder"),
        ({"../cat/a.png": CAT}, "member '../cat/a.png' has an unsafe name"),
        ({"/cat/a.png": CAT}, "unsafe name"),
        ({"cat/..": CAT}, "unsafe name"),
        ({"cat\\a.png": CAT}, "unsafe name"),
        ({"C:/a.png": CAT}, "unsafe name"),
        ({"cat/a\n.png": CAT}, "unsafe name"),
        ({"cat/notes.txt": b"hello"}, "member 'cat/notes.txt': the bytes are no JPEG or PNG"),
        ({"cat/a.png": CAT, "cat/b.png": CAT[:50]}, "member 'cat/b.png': the image is cut off"),
        ({"cat/a.png": png_claiming(30_000, 30)}, "member 'cat/a.png': the image is 30000 x 30"),
        ({"cat/.DS_Store": b"x"}, "holds 0 images"),
        ({"cat/a.png": CAT, "x.npy": b"\x93NUMPY"}, "member 'x.npy' is in no class folder"),
    ],
)
def test_an_unsound_archive_is_refused_by_member_and_leaves_nothing(
    tmp_path: Path, contents: dict[str, bytes], words: str
) -> None:
    with pytest.raises(InvalidDataset, match=words):
        inspect(tmp_path, archive(contents))
    assert os.listdir(tmp_path) == ["upload"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        link = zipfile.ZipInfo("cat/a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidDataset, match="is a link"):
        inspect(tmp_path, buffer.getvalue())


def test_pictures_without_a_preprocessing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="images need a preprocessing; send preprocessing, or the model"):
        inspect(tmp_path, archive({"cat/a.png": CAT}), preprocessing=None)


def test_pictures_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    gray = TensorSpec("input", "FP32", (-1, 1, 4, 4)).to_json()
    with pytest.raises(InvalidDataset, match=r"has shape \[3, 4, 4\] but the model's input has \[-1, 1, 4, 4\]"):
        inspect(tmp_path, archive({"cat/a.png": CAT}), input=gray)
    words = TensorSpec("text", "INT64", (-1, 4)).to_json()
    with pytest.raises(InvalidDataset, match=r"'text' is INT64, which no picture fills; send an .npz"):
        inspect(tmp_path, archive({"cat/a.png": CAT}), input=words)


def test_limits_on_pictures_hold(tmp_path: Path) -> None:
    data = archive({"cat/a.png": CAT, "cat/b.png": DARK})
    with pytest.raises(InvalidDataset, match="holds 2 images; send 1 to 1"):
        inspect(tmp_path, data, upload_limits={"max_rows": 1})
    with pytest.raises(InvalidDataset, match=r"member 'cat/a.png': the image has \d+ bytes; send at most 40"):
        inspect(tmp_path, data, infer_limits={"max_image_bytes": 40})
