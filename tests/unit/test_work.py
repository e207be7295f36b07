"""What a worker promises about its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import InvalidInput
from service.settings import read_settings
from service.work import claimed_name


def test_no_two_workers_of_one_name_run_on_one_folder(tmp_path: Path) -> None:
    settings = read_settings(data_dir=tmp_path, worker_id="host/1")
    with claimed_name(settings):
        with pytest.raises(InvalidInput, match=r"'host/1' runs on .*OCTAVO_WORKER_ID"), claimed_name(settings, 0.0):
            pass
        with claimed_name(read_settings(data_dir=tmp_path, worker_id="host/2"), 0.0):
            pass
    with claimed_name(settings, 0.0):
        pass


def test_a_worker_whose_folder_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = read_settings(data_dir=tmp_path / "file")
    with pytest.raises(InvalidInput, match="OCTAVO_DATA_DIR"), claimed_name(settings):
        pass
