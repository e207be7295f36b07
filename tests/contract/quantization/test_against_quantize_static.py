"""ONNX Runtime's own quantizer as a yardstick: with the same method, our engine is as close to the float model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.domain.recipe import GRANULARITIES, SCHEMES, Calibration, Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import Array, classifier, images, saved

SLACK_DECIBELS = 1.0


def decibels(reference: Array, given: Array) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - given) ** 2).sum()))


def by_onnxruntime(source: Path, target: Path, rows: Array, recipe: Recipe) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter([{"x": rows}])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._batches, None)

    simple = target.with_name("simple.onnx")
    quant_pre_process(str(source), str(simple), skip_symbolic_shape=True)
    quantize_static(
        str(simple),
        str(target),
        Reader(),
        per_channel=recipe.granularity == "per_channel",
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": recipe.scheme == "symmetric"},
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_our_engine_is_no_further_from_the_float_model(tmp_path: Path, granularity: str, scheme: str) -> None:
    rows, unseen = images(64, seed=1), images(256, seed=2)
    source = saved(classifier(), tmp_path / "source.onnx")
    recipe = Recipe(scheme=scheme, granularity=granularity, calibration=Calibration(method="minmax"))
    by_onnxruntime(source, tmp_path / "theirs.onnx", rows, recipe)
    ours, _ = quantize(classifier(), {"x": rows}, tmp_path, recipe)
    saved(ours, tmp_path / "ours.onnx")
    reference = OnnxRuntimeEngine.load(source, 1).infer({"x": unseen})["scores"]
    found = {
        name: decibels(reference, OnnxRuntimeEngine.load(tmp_path / f"{name}.onnx", 1).infer({"x": unseen})["scores"])
        for name in ("ours", "theirs")
    }
    assert found["ours"] >= found["theirs"] - SLACK_DECIBELS, found
