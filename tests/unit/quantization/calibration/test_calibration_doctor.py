"""Real digits, spoilt in one way at a time: each is told by its rows or tensor and its value; sound ones are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from service.domain.recipe import Budget, Calibration, Recipe
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.calibration import calibrate_stage
from service.quantization.calibration.calibration_doctor import diagnose
from service.quantization.calibration.row_statistics import row_statistics
from service.quantization.data.rows import Array, Rows
from service.quantization.preparation.preparation import inspect_stage
from service.quantization.task import PipelineTask
from tests.unit.quantization.small_models import classifier, fp32, images, model_of, saved, saved_rows, value

DIGITS = Path(__file__).parents[4] / "models" / "digits"


def digits(part: str) -> Array:
    with np.load(DIGITS / f"{part}.npz") as archive:
        return np.asarray(archive["input"])


def warnings_for(
    folder: Path, rows: Array, validation: Array | None = None, model: Path = DIGITS / "digits.onnx"
) -> list[str]:
    """What the stage warns of after a calibration of the model on these rows."""
    name = "input" if model.name == "digits.onnx" else "x"
    calibration = saved_rows(folder / "c.npz", **{name: rows})
    others = None if validation is None else saved_rows(folder / "v.npz", **{name: validation})
    recipe = Recipe(calibration=Calibration(rows=len(rows)))
    task = PipelineTask(folder / "job", model, recipe, Budget("mae", 1), calibration, others, 1)
    inspect_stage(task, lambda fraction: None)
    found: list[str] = calibrate_stage(task, lambda fraction: None)["warnings"]
    assert task.read("calibrate.json")["warnings"] == found
    return found


def test_sound_rows_raise_no_warning(tmp_path: Path) -> None:
    assert warnings_for(tmp_path, digits("calibration"), digits("validation")) == []
    assert warnings_for(tmp_path, digits("calibration")) == []


def test_repeated_rows_are_listed_with_the_row_that_they_repeat(tmp_path: Path) -> None:
    rows = digits("calibration")
    rows[[40, 41]] = rows[[7, 8]]
    rows[200:206] = rows[7]
    (warning,) = warnings_for(tmp_path, rows, digits("validation"))
    assert warning == (
        "8 of 256 calibration rows repeat earlier ones: rows 40, 41, 200, 201, 202 and 3 more, for example row 40 "
        "repeats row 7; send rows that all differ"
    )


def test_an_array_beside_the_inputs_hides_neither_repeated_nor_shared_nor_constant_rows(tmp_path: Path) -> None:
    rows, validation = digits("calibration"), digits("validation")
    rows[40], rows[3] = rows[7], 0
    validation[100] = rows[20]
    calibration = saved_rows(tmp_path / "c.npz", input=rows, number=np.arange(len(rows)))
    others = saved_rows(tmp_path / "v.npz", input=validation)
    recipe = Recipe(calibration=Calibration(rows=len(rows)))
    task = PipelineTask(tmp_path / "job", DIGITS / "digits.onnx", recipe, Budget("mae", 1), calibration, others, 1)
    inspect_stage(task, lambda fraction: None)
    repeated, constant, shared = calibrate_stage(task, lambda fraction: None)["warnings"]
    assert "1 of 256 calibration rows repeat earlier ones: row 40" in repeated
    assert "1 calibration rows hold one value only: row 3" in constant
    assert "1 calibration rows are validation rows too: row 20" in shared


def test_rows_of_one_value_are_listed(tmp_path: Path) -> None:
    rows = digits("calibration")
    rows[3], rows[9] = 0, 0.5
    (warning,) = warnings_for(tmp_path, rows, digits("validation"))
    assert warning == "2 calibration rows hold one value only: rows 3, 9; leave out blank or failed samples"


def test_few_rows_are_too_few(tmp_path: Path) -> None:
    warnings = warnings_for(tmp_path, digits("calibration")[:8], digits("validation"))
    assert warnings[0] == "calibrated on 8 rows; ranges from under 32 rows seldom hold, so send 100 or more"


def test_rows_shared_with_the_validation_set_are_listed(tmp_path: Path) -> None:
    validation = digits("validation")
    validation[100:103] = digits("calibration")[20:23]
    (warning,) = warnings_for(tmp_path, digits("calibration"), validation)
    assert warning == (
        "3 calibration rows are validation rows too: rows 20, 21, 22; validate on rows that calibration has not seen"
    )


@pytest.mark.parametrize("scale", [255.0, 1 / 255])
def test_pixels_on_another_scale_than_the_validation_rows_are_told_with_both_ranges(
    tmp_path: Path, scale: float
) -> None:
    (warning,) = warnings_for(tmp_path, digits("calibration") * np.float32(scale), digits("validation"))
    assert warning.startswith(f"input 'input' is 0 to {scale:.4g} (mean ")
    assert "in the calibration rows but 0 to 1 (mean " in warning
    assert warning.endswith("in the validation rows; preprocess both alike")


def test_random_numbers_in_place_of_pictures_are_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0, 1, (256, 1, 8, 8)).astype(np.float32)
    warnings = warnings_for(tmp_path, noise, digits("validation"))
    assert [warning for warning in warnings if "looks like random numbers" in warning]
    assert "calibrate on real rows" in " ".join(warnings)


def test_a_channel_of_zeros_is_told_unless_validation_has_it_too(tmp_path: Path) -> None:
    model = saved(classifier(), tmp_path / "m.onnx")
    rows, validation = images(64, 1), images(64, 2)
    rows[:, 2] = 0
    told = [warning for warning in warnings_for(tmp_path, rows, validation, model) if "is zero in all" in warning]
    assert told == ["channel 2 of input 'x' is zero in all calibration rows; check the order and number of channels"]
    validation[:, 2] = 0
    assert not [warning for warning in warnings_for(tmp_path, rows, validation, model) if "is zero" in warning]


def trained_model(folder: Path, rows: Array) -> Path:
    """A convolution and a normalisation that know the rows' statistics, as training leaves them."""
    weights = np.random.default_rng(0).normal(0, 1, (4, 1, 1, 1)).astype(np.float32)
    made = rows * weights.reshape(1, 4, 1, 1)
    constants = {"w": weights, "scale": fp32([1, 2, 1, 1]), "bias": fp32([0, 1, -1, 0])}
    constants |= {"mean": made.mean(axis=(0, 2, 3)), "var": made.var(axis=(0, 2, 3))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("BatchNormalization", ["a", "scale", "bias", "mean", "var"], ["y"], "norm"),
    ]
    shape: list[int | str] = ["batch", 1, 8, 8]
    model = model_of(nodes, [value("x", shape)], [value("y", ["batch", 4, 8, 8])], constants)
    return saved(model, folder / "trained.onnx")


def test_a_scale_that_training_never_saw_is_told_by_the_first_normalisation(tmp_path: Path) -> None:
    rows = digits("calibration")
    model = trained_model(tmp_path, rows)
    assert warnings_for(tmp_path, rows, None, model) == []
    (warning,) = warnings_for(tmp_path, rows * np.float32(255), None, model)
    assert warning.startswith("tensor 'y' behind input 'x' has mean ")
    assert "when the model was trained; check the scale" in warning


def test_ranges_that_still_grow_are_told_with_the_worst_tensor(tmp_path: Path) -> None:
    rows = digits("calibration")
    rows[128:] *= np.linspace(1, 2, 128, dtype=np.float32).reshape(-1, 1, 1, 1)
    warnings = warnings_for(tmp_path, rows, digits("validation"))
    (warning,) = [warning for warning in warnings if "still move" in warning]
    assert "from 128 to 256 rows the 99.9th percentile of" in warning
    assert "send about 1024 rows" in warning


def test_a_reused_calibration_is_judged_like_a_fresh_one(tmp_path: Path) -> None:
    rows = digits("calibration")
    rows[40] = rows[7]
    assert warnings_for(tmp_path, rows) == warnings_for(tmp_path, rows) != []


def test_token_ids_and_flags_are_no_pictures_and_raise_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ids = random.integers(0, 30_000, (64, 16))
    rows = Rows("calibration", {"ids": ids, "types": np.zeros((64, 16), np.int64)}, None)
    task = PipelineTask(tmp_path, saved(classifier(), tmp_path / "m.onnx"), Recipe(), Budget(), None, None, 1)
    assert diagnose(task, Calibrated.empty("", (), {}), rows, rows.row_digests(64)) == []


def test_tensors_that_wake_in_the_second_half_of_the_rows_have_not_settled(tmp_path: Path) -> None:
    rows = images(64)
    rows[:32] = 0
    warnings = warnings_for(tmp_path, rows, model=saved(classifier(), tmp_path / "m.onnx"))
    (warning,) = [found for found in warnings if "still move" in found]
    assert "from 32 to 64 rows the 99.9th percentile of" in warning
    assert "rose from zero; send about 256 rows" in warning


@pytest.mark.parametrize("axis", [2, 3])
def test_pictures_that_are_smooth_in_one_direction_only_are_no_noise(axis: int) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (64, 3, 16, 16)).astype(np.float32)
    for values, grainy in ((noise, True), (noise.cumsum(axis=axis), False)):
        grain = row_statistics(Rows("calibration", {"x": values}, None), 64).inputs["x"].grain
        assert grain is not None
        assert (abs(grain) < 0.1) is grainy
