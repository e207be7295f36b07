"""`octavo infer`: the files that it saves outputs to, and files of arrays that no usual program writes."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from errno import EBUSY, ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

PATH = "/v2/models/digits/infer"
FP32: dict[str, Any] = {"name": "logits", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]}


@pytest.fixture
def save(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> Callable[..., Any]:
    """Asks for outputs and saves them to a file."""

    def run(target: Path, *outputs: dict[str, Any]) -> Any:
        server.answer("POST", PATH, {"model_name": "digits", "model_version": "1", "outputs": list(outputs)})
        (tmp_path / "request.json").write_text("{}")
        return octavo("infer", "digits", "--json-body", tmp_path / "request.json", "--save", target)

    return run


def test_outputs_of_any_name_can_be_saved(save: Callable[..., Any], tmp_path: Path) -> None:
    outputs = [FP32 | {"name": name} for name in ("file", "args", "a/b", "é")]
    assert save(tmp_path / "answers.npz", *outputs).code == 0
    with np.load(tmp_path / "answers.npz") as saved:
        assert sorted(saved.files) == ["a/b", "args", "file", "é"]
        assert saved["file"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("wrong", [{"shape": [3]}, {"data": [1, {}]}, {"data": [[1], [1, 2]]}, {"data": None}])
def test_outputs_that_are_no_arrays_leave_the_older_file(
    save: Callable[..., Any], tmp_path: Path, wrong: dict[str, Any]
) -> None:
    target = tmp_path / "answers.npz"
    target.write_text("older")
    outcome = save(target, FP32, FP32 | {"name": "file"} | wrong)
    assert outcome.code == 1
    assert "output 'file'" in outcome.err
    assert target.read_text() == "older"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["answers.npz", "request.json"]


def test_a_link_stays_one_and_a_device_is_written_to_itself(save: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "answers.npz")
    assert save(tmp_path / "link.npz", FP32).code == 0
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "answers.npz").stat().st_size > 0
    (tmp_path / "null").symlink_to("/dev/null")
    assert save(tmp_path / "null", FP32).code == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_file_that_nothing_can_be_put_in_place_of_is_written_itself(
    save: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = getattr(Path, step)

    def busy(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.suffix == ".part":
            raise OSError(EBUSY, "Device or resource busy")
        return whole(path, *arguments, **more)

    monkeypatch.setattr(Path, step, busy)
    file = tmp_path / "mounted.npz"
    file.write_bytes(b"before")
    assert save(file, FP32).code == 0
    assert file.read_bytes() != b"before"
    assert list(tmp_path.glob(".octavo-*")) == []


def test_a_file_is_saved_where_there_is_no_temporary_folder(
    save: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert save(tmp_path / "answers.npz", FP32).code == 0


def test_a_full_disk_leaves_the_older_file(
    save: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    file = tmp_path / "answers.npz"
    file.write_bytes(b"before")
    assert "No space left on device" in save(file, FP32).err
    assert file.read_bytes() == b"before"
    assert list(tmp_path.glob(".octavo-*")) == []


def test_a_file_that_cannot_be_saved_is_told(save: Callable[..., Any], tmp_path: Path) -> None:
    outcome = save(tmp_path / "missing" / "answers.npz", FP32)
    assert outcome.code == 1
    assert "cannot be written" in outcome.err


def claims(shape: tuple[int, ...]) -> bytes:
    """A .npy file of a header alone."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def archive(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        written.writestr(name, content)
    return stream.getvalue()


def text_array(text: str, kind: type | None = None) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([text], kind))
    return stream.getvalue()


ENORMOUS = claims((10**12,))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("rows.npz", archive("readme.txt", b"rows"), "'readme.txt' is no .npy file"),
     ("rows.npz", archive("x.npy", ENORMOUS), "no plain arrays"), ("x=rows.npy", ENORMOUS, "no plain arrays"),
     ("x=rows.npy", claims((2,)).replace(b"{'descr'", b"{{{{{{{{"), "no plain arrays"),
     ("x=rows.npy", claims((10**30,)), "no plain arrays"), ("x=rows.npy", text_array("a\ud800"), "no Unicode"),
     ("x=rows.npy", text_array("a", object), "save numbers, or text of its own type (array.astype(str)), with")],
    ids=["no array", "enormous in an archive", "enormous", "no header", "beyond 64 bits", "a lone surrogate",
         "text as objects"],
)  # fmt: skip
def test_damaged_arrays_are_wrong_usage(
    octavo: Octavo, server: ScriptedServer, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    given, equals, file = name.rpartition("=")
    (tmp_path / file).write_bytes(content)
    outcome = octavo("infer", "digits", "--input", f"{given}{equals}{tmp_path / file}", COLUMNS="400")
    assert outcome.code == 2
    assert told in outcome.err
    assert server.received == []
