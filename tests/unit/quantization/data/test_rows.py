"""Rows are read from the map a few at a time and cut to the shape that each model takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.errors import InvalidDataset
from service.quantization.data.rows import Feed, Rows

X = np.arange(30, dtype=np.float32).reshape(5, 2, 3)


def rows(folder: Path, **arrays: Any) -> Rows:
    np.savez(folder / "rows.npz", **arrays)
    return Rows.open(folder / "rows.npz", "validation")


def spec(*shape: int, name: str = "x", datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def test_arrays_are_mapped_from_the_file_and_labels_set_apart(tmp_path: Path) -> None:
    opened = rows(tmp_path, x=X, labels=np.arange(5))
    assert isinstance(opened.arrays["x"], np.memmap)
    assert (opened.arrays["x"] == X).all()
    assert opened.labels is not None
    assert opened.labels.tolist() == [0, 1, 2, 3, 4]
    assert len(opened) == 5
    assert opened.specs() == {"x": spec(-1, 2, 3)}


def test_an_open_batch_takes_any_number_of_rows(tmp_path: Path) -> None:
    feed = Feed.of(rows(tmp_path, x=X), [spec(-1, 2, 3)])
    taken = [(start, count, batch["x"].shape) for start, count, batch in feed.batches(5, 2)]
    assert taken == [(0, 2, (2, 2, 3)), (2, 2, (2, 2, 3)), (4, 1, (1, 2, 3))]


def test_only_the_first_rows_up_to_the_limit_are_taken(tmp_path: Path) -> None:
    feed = Feed.of(rows(tmp_path, x=X), [spec(-1, 2, 3)])
    assert sum(count for _, count, _ in feed.batches(3, 2)) == 3


def test_batches_go_on_from_any_row(tmp_path: Path) -> None:
    feed = Feed.of(rows(tmp_path, x=X), [spec(-1, 2, 3)])
    taken = [(start, batch["x"].tolist()) for start, _, batch in feed.batches(5, 2, 3)]
    assert taken == [(3, X[3:5].tolist())]
    assert list(feed.batches(5, 2, 5)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="held pages are read from Linux's own account")
def test_pages_that_were_given_back_are_read_again_when_asked_for(tmp_path: Path) -> None:
    values = np.arange(4_000_000, dtype=np.float32).reshape(1000, -1)
    opened = rows(tmp_path, x=values)
    assert opened.arrays["x"].sum(dtype=np.float64) == values.sum(dtype=np.float64)
    held = _mapped_bytes()
    opened.forget()
    assert held - _mapped_bytes() > 0.9 * values.nbytes
    assert (opened.arrays["x"][999] == values[999]).all()
    Rows("plain", {"x": X}, None).forget()


def _mapped_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssFile"].split()[0]) * 1024


def test_rows_have_a_digest_each_that_tells_them_apart(tmp_path: Path) -> None:
    opened = rows(tmp_path, x=X[[0, 1, 0]], y=np.arange(3) // 3)
    first, second, third = opened.row_digests(10)
    assert first == third != second
    assert opened.row_digests(2) == [first, second]
    assert opened.digests() == {first, second}


def test_a_fixed_batch_takes_its_own_number_and_leaves_out_the_rest(tmp_path: Path) -> None:
    feed = Feed.of(rows(tmp_path, x=X), [spec(2, 2, 3)])
    taken = [(start, batch["x"].shape) for start, _, batch in feed.batches(5, 32)]
    assert taken == [(0, (2, 2, 3)), (2, (2, 2, 3))]


def test_rows_of_the_inputs_own_shape_are_fed_one_at_a_time(tmp_path: Path) -> None:
    feed = Feed.of(rows(tmp_path, x=X), [spec(2, 3)])
    batches = list(feed.batches(5, 32))
    assert len(batches) == 5
    assert batches[3][2]["x"].shape == (2, 3)
    assert (batches[3][2]["x"] == X[3]).all()


def test_a_scalar_input_beside_a_batch_gets_one_value_a_run(tmp_path: Path) -> None:
    feed = Feed.of(rows(tmp_path, x=X, t=np.arange(5, dtype=np.float32)), [spec(-1, 2, 3), spec(name="t")])
    _, count, batch = list(feed.batches(5, 8))[2]
    assert count == 1
    assert batch["x"].shape == (1, 2, 3)
    assert batch["t"].shape == ()
    assert batch["t"] == 2


def test_a_batch_is_as_large_as_its_inputs_allow(tmp_path: Path) -> None:
    small = Feed.of(rows(tmp_path, x=np.zeros((50, 4), np.float32)), [spec(-1, 4)])
    assert small.affordable_rows() == 32
    large = Feed.of(rows(tmp_path, x=np.zeros((5, 3 * 2**20), np.float32)), [spec(-1, 3 * 2**20)])
    assert large.affordable_rows() == 2
    scalar = Feed.of(rows(tmp_path, x=X, t=np.arange(5, dtype=np.float32)), [spec(-1, 2, 3), spec(name="t")])
    assert scalar.affordable_rows() == 1


def test_a_batch_larger_than_the_data_repeats_its_rows(tmp_path: Path) -> None:
    feed = Feed.of(rows(tmp_path, x=X), [spec(-1, 2, 3)])
    filled = feed.filled(12)["x"]
    assert filled.shape == (12, 2, 3)
    assert (filled[5] == X[0]).all()
    assert filled.flags.c_contiguous


def test_inputs_that_take_different_numbers_of_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="take 2 and 4 rows at once; give all inputs one batch size"):
        Feed.of(rows(tmp_path, x=X, y=X), [spec(2, 2, 3), spec(4, 2, 3, name="y")])


def test_fewer_rows_than_a_fixed_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="takes 8 rows at once but the data has 5; send more rows"):
        Feed.of(rows(tmp_path, x=X), [spec(8, 2, 3)])


def test_a_misfit_names_the_set_it_is_in(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="the validation set has no array 'y'"):
        Feed.of(rows(tmp_path, x=X), [spec(-1, 2, 3, name="y")])


def test_rows_that_two_sets_share_have_one_digest(tmp_path: Path) -> None:
    mine = rows(tmp_path, x=X).digests()
    other = rows(tmp_path, x=np.concatenate([X[3:], X[3:] + 100])).digests()
    assert len(mine) == 5
    assert len(mine & other) == 2


def test_an_array_that_the_model_does_not_take_does_not_tell_equal_rows_apart(tmp_path: Path) -> None:
    plain, numbered = tmp_path / "plain", tmp_path / "numbered"
    for folder in (plain, numbered):
        folder.mkdir()
    one = Feed.of(rows(plain, x=X), [spec(-1, 2, 3)])
    other = Feed.of(rows(numbered, x=X, number=np.arange(5)), [spec(-1, 2, 3)])
    assert other.rows.row_digests(5) == one.rows.row_digests(5)


@pytest.mark.parametrize(("batch", "limit", "covered"), [(-1, 5, 5), (-1, 3, 3), (2, 5, 4), (2, 1, 2), (3, 9, 3)])
def test_what_a_feed_covers_is_what_its_batches_give(tmp_path: Path, batch: int, limit: int, covered: int) -> None:
    feed = Feed.of(rows(tmp_path, x=X), [spec(batch, 2, 3)])
    assert feed.covered(limit) == covered == sum(count for _, count, _ in feed.batches(limit, 2))
