"""What the TensorRT builder makes on the device: weights apart from the plan, sparse weights, one row and many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from service.domain.recipe import WEIGHTS, BatchProfile
from service.engines.gpu_requirements import missing_for
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.builders.builder import BuildOptions, builder_for
from service.quantization.graphs.sparsity import prune
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import classifier, images, saved

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing_for("tensorrt")), reason=missing_for("tensorrt"))]
BATCH = BatchProfile(2, 4, 8)


def pruned() -> ModelProto:
    model = classifier()
    prune(model)
    return model


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_plan_answers_as_the_reference_wherever_its_weights_are(tmp_path: Path, weights: str, sparse: bool) -> None:
    converted = saved(pruned() if sparse else classifier(), tmp_path / "converted.onnx")
    builder, options = builder_for("tensorrt"), BuildOptions(1, BATCH, weights=weights)
    builder.build(converted, tmp_path / "engine.plan", options)
    engine = builder.load(tmp_path / "engine.plan", 1)
    expected = OnnxRuntimeEngine.load(converted, 1)
    for rows in (1, 2, 8):
        batch = {"x": images(rows)}
        assert np.allclose(engine.infer(batch)["scores"], expected.infer(batch)["scores"], rtol=1e-3, atol=1e-3)
    engine.close()


def test_a_stripped_int8_plan_answers_as_the_whole_one(tmp_path: Path) -> None:
    emitted, _ = quantize(classifier(), {"x": images(64)}, tmp_path, runtime="tensorrt")
    converted, answers = saved(emitted, tmp_path / "converted.onnx"), []
    builder = builder_for("tensorrt")
    for weights in ("fixed", "stripped"):
        builder.build(converted, tmp_path / f"{weights}.plan", BuildOptions(1, BATCH, weights=weights))
        engine = builder.load(tmp_path / f"{weights}.plan", 1)
        answers.append(engine.infer({"x": images(5)})["scores"])
        engine.close()
    whole, stripped = answers
    assert np.allclose(whole, stripped, rtol=1e-3, atol=1e-3)
