"""A plan and the graph that has its weights, in one file and back; whatever else looks like it is refused."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from service.engines.stripped_plan import read_plan, write_stripped
from service.errors import EngineFailed

WHOLE = b"ftrt" + bytes(100)


def stripped(folder: Path, name: str = "engine.plan") -> Path:
    (folder / "converted.onnx").write_bytes(b"graph" * 1000)
    write_stripped(folder / name, memoryview(WHOLE), folder / "converted.onnx")
    return folder / name


def test_plan_and_graph_come_back_as_they_were(tmp_path: Path) -> None:
    assert read_plan(stripped(tmp_path)) == (WHOLE, b"graph" * 1000)


def test_equal_content_gives_an_equal_file(tmp_path: Path) -> None:
    assert stripped(tmp_path, "a").read_bytes() == stripped(tmp_path, "b").read_bytes()


@pytest.mark.parametrize("content", [WHOLE, b"", b"PK"])
def test_any_other_file_is_a_whole_plan(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "engine.plan").write_bytes(content)
    assert read_plan(tmp_path / "engine.plan") == (content, None)


@pytest.mark.parametrize("kept", [10, 60, 4000, -30])
def test_a_file_that_was_cut_is_refused_with_the_next_step(tmp_path: Path, kept: int) -> None:
    path = stripped(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(EngineFailed, match=r"is no weight-stripped engine .*; quantize again on this host"):
        read_plan(path)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = stripped(tmp_path)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(EngineFailed, match="CRC"):
        read_plan(path)


def test_an_archive_of_something_else_or_a_compressed_one_is_refused(tmp_path: Path) -> None:
    for name, compression in (("other.txt", 0), ("engine.plan", ZIP_DEFLATED)):
        path = tmp_path / "engine.plan"
        with ZipFile(path, "w", compression) as archive:
            archive.writestr(name, b"0" * 100)
            archive.writestr("weights.onnx", b"0" * 100)
        with pytest.raises(EngineFailed, match="it holds"):
            read_plan(path)
