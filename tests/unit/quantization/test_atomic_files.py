"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from service.errors import StorageFull
from service.quantization.atomic_files import read_json, replacing, write_json


def test_a_written_value_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, None, "é"]})
    assert read_json(tmp_path / "a.json") == {"x": [1, None, "é"]}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_keeps_the_earlier_file_and_removes_its_own(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "a.json") as partial:
        (partial.parent / partial.name).write_bytes(tmp_path.read_bytes())
    assert read_json(tmp_path / "a.json") == 1
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_or_quota_that_is_full_is_told_as_such(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(StorageFull, match=r"no space to write a\.json: .*; free disk space and retry"),
        replacing(tmp_path / "a.json"),
    ):
        raise OSError(code, os.strerror(code))


def test_other_errors_of_the_system_come_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "absent" / "a.json", 1)
