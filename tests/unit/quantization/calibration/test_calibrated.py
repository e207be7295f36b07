"""The calibration file: what goes in comes out, and what was altered is told from what was not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.domain.recipe import METHODS, Calibration
from service.errors import StageFailed
from service.quantization.calibration import calibrated
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.ranges import find_range
from service.quantization.kept_files import LAYOUT
from service.quantization.measures.histogram import Histogram


def filled() -> Calibrated:
    seen = Calibrated.empty("identity", ("a", "b"), {"view": "a"})
    random = np.random.default_rng(0)
    for rows in (10, 20):
        seen.histograms["a"].add(random.normal(0, 1, 50_000).astype(np.float32))
        seen.histograms["b"].add(np.maximum(random.normal(0, 9, 50_000), 0).astype(np.float32))
        seen.rows = rows
        seen.note_tails()
    return seen


@pytest.mark.parametrize("compress", [True, False])
def test_a_file_gives_back_all_that_was_seen(tmp_path: Path, compress: bool) -> None:
    seen = filled()
    seen.save(tmp_path / "c.npz", compress)
    back = Calibrated.load(tmp_path / "c.npz")
    assert (back.identity, back.rows, back.aliases, back.curve) == ("identity", 20, {"view": "a"}, seen.curve)
    for name in ("a", "b"):
        assert np.array_equal(back.histograms[name].bins, seen.histograms[name].bins)
        assert back.extremes(name) == seen.extremes(name)
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_a_file_that_was_read_counts_on(tmp_path: Path) -> None:
    seen = filled()
    seen.save(tmp_path / "c.npz")
    back = Calibrated.load(tmp_path / "c.npz")
    for one in (seen, back):
        one.histograms["a"].add(np.full(7, 100, np.float32))
    back.save(tmp_path / "d.npz")
    assert np.array_equal(Calibrated.load(tmp_path / "d.npz").histograms["a"].bins, seen.histograms["a"].bins)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_its_range_in_the_file(tmp_path: Path, method: str, symmetric: bool) -> None:
    seen = filled()
    seen.save(tmp_path / "c.npz")
    back = Calibrated.load(tmp_path / "c.npz")
    expected = find_range(seen.histograms["a"], Calibration(method), symmetric)
    assert back.range("a", Calibration(method), symmetric) == expected
    assert back.ranges(["view", "b"], Calibration(method), symmetric)["view"] == expected


def test_a_view_has_the_extremes_of_what_it_shows() -> None:
    seen = filled()
    assert seen.extremes("view") == seen.extremes("a")
    assert "view" in seen
    assert "other" not in seen


def test_a_tensor_that_was_not_observed_has_no_range() -> None:
    with pytest.raises(StageFailed, match="tensor 'other' was not calibrated: it is no FLOAT activation"):
        filled().range("other", Calibration(), True)


def test_a_tensor_that_was_not_finite_has_no_range() -> None:
    seen = filled()
    seen.histograms["b"].add(np.array([np.inf, np.nan, 1], np.float32))
    with pytest.raises(StageFailed, match=r"tensor 'b' is NaN or infinite 2 times .* name the operator"):
        seen.extremes("b")


def test_what_was_measured_names_every_tensor_and_calls_the_infinite_unbound() -> None:
    seen = filled()
    seen.histograms["b"].add(np.array([np.nan], np.float32))
    measured = seen.measured()
    assert measured["view"] == measured["a"] == seen.extremes("a")
    assert measured["b"] == (-np.inf, np.inf)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_changed_byte_is_noticed(tmp_path: Path, place: float) -> None:
    path = tmp_path / "c.npz"
    filled().save(path, compress=False)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(StageFailed, match=r"c.npz cannot be read: .*; calibrate again"):
        Calibrated.load(path)


def test_content_that_does_not_belong_together_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    filled().save(path)
    with np.load(path) as archive:
        members = dict(archive)
    members["bins"][0, 0] += 1
    np.savez(path, allow_pickle=False, **members)
    with pytest.raises(StageFailed, match="its digest is not that of its content"):
        Calibrated.load(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(StageFailed, match="cannot be read"):
        Calibrated.load(tmp_path / "c.npz")


def test_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "LAYOUT", 99)
    filled().save(tmp_path / "c.npz")
    monkeypatch.undo()
    with pytest.raises(StageFailed, match=f"its layout is 99, not {LAYOUT}"):
        Calibrated.load(tmp_path / "c.npz")


def test_histograms_that_share_no_matrix_are_saved_too(tmp_path: Path) -> None:
    alone = Histogram()
    alone.add(np.array([1, 2, 3], np.float32))
    Calibrated("id", {}, {"a": alone, "b": Histogram()}, 3).save(tmp_path / "c.npz")
    assert Calibrated.load(tmp_path / "c.npz").extremes("a") == (1, 3)
