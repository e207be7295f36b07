"""The network of `models/resnet50` is ResNet50 v1.5, as its card says, and its values stay within FP16."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.mac_share import count_macs
from models.resnet50.make import write_resnet50
from service.engines.onnxruntime_engine import OnnxRuntimeEngine


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resnet50(tmp_path_factory.mktemp("resnet50") / "resnet50.onnx")


def test_it_has_the_weights_the_layers_and_the_work_of_the_real_one(path: Path) -> None:
    graph = onnx.load_model(path).graph
    # Running means and variances are no weights.
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer if not t.name.endswith((".mean", ".var"))}
    assert sum(sizes.values()) == 25_557_032
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("Conv"), kinds.count("BatchNormalization"), kinds.count("Add")) == (53, 53, 16)
    assert sum(count_macs(path).values()) == 4_089_184_256


def test_its_answers_are_finite_differ_by_row_and_fit_in_fp16(path: Path) -> None:
    engine = OnnxRuntimeEngine.load(path, 1)
    rows = np.random.default_rng(0).normal(0, 1, (2, 3, 224, 224)).astype(np.float32)
    logits = engine.infer({"input": rows})["logits"]
    engine.close()
    assert logits.shape == (2, 1000)
    assert 0.1 < np.abs(logits).max() < 1000
    assert not np.allclose(logits[0], logits[1])
