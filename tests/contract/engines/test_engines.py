"""What the router and the quantizer count on, of every engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from service.domain.tensor import TensorSpec
from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.samples import Sampler, sampler_for
from service.errors import EngineFailed
from service.quantization.measures.residency import loaded_with_growth, resident_bytes
from tests.unit.quantization.small_models import Array, classifier, images, model_of, saved, u_net, value

Load = Callable[[Path], Engine]


@pytest.fixture
def engine(load: Load, tmp_path: Path) -> Engine:
    return load(saved(classifier(), tmp_path / "m.onnx"))


@pytest.fixture
def reference(tmp_path: Path) -> Engine:
    return OnnxRuntimeEngine.load(saved(classifier(), tmp_path / "reference.onnx"), 1)


def scores(engine: Engine, rows: Array) -> Array:
    return engine.infer({"x": rows})["scores"]


def test_it_tells_names_datatypes_and_open_axes(engine: Engine) -> None:
    assert engine.inputs == (TensorSpec("x", "FP32", (-1, 3, 8, 8)),)
    assert engine.outputs == (TensorSpec("scores", "FP32", (-1, 4)),)


def test_it_answers_as_the_reference_does(engine: Engine, reference: Engine) -> None:
    assert np.allclose(scores(engine, images(33)), scores(reference, images(33)), rtol=1e-4, atol=1e-5)


def test_a_row_gets_the_same_answer_in_every_batch(engine: Engine) -> None:
    rows = images(16)
    whole = scores(engine, rows)
    for size in (1, 2, 5, 16):
        parts = [scores(engine, rows[start : start + size]) for start in range(0, 16, size)]
        assert np.allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)


def test_equal_rows_of_one_batch_get_equal_answers(engine: Engine) -> None:
    answers = scores(engine, np.repeat(images(1), 8, axis=0))
    assert np.array_equal(answers, np.repeat(answers[:1], 8, axis=0))


def test_an_answer_belongs_to_its_caller(engine: Engine) -> None:
    first = scores(engine, images(4, seed=1))
    kept = first.copy()
    second = scores(engine, images(4, seed=2))
    assert np.array_equal(first, kept)
    second[:] = 0
    assert np.array_equal(scores(engine, images(4, seed=1)), kept)


def test_inputs_are_left_as_they_were(engine: Engine) -> None:
    rows = images(4)
    scores(engine, rows)
    assert np.array_equal(rows, images(4))


@pytest.mark.parametrize("shape", [(1, 3, 8, 7), (1, 3, 8), (1, 4, 8, 8)])
def test_a_wrong_shape_is_refused_and_the_next_batch_is_served(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineFailed, match="failed on this batch"):
        engine.infer({"x": np.zeros(shape, np.float32)})
    assert scores(engine, images(2)).shape == (2, 4)


def test_a_missing_input_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineFailed):
        engine.infer({})


def test_many_callers_at_once_each_get_their_own_answers(engine: Engine, reference: Engine) -> None:
    batches = [images(1 + seed % 5, seed) for seed in range(64)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda rows: scores(engine, rows), batches))
    for rows, given in zip(batches, answers, strict=True):
        assert np.allclose(given, scores(reference, rows), rtol=1e-4, atol=1e-5)


def test_a_sample_batch_of_every_size_warms_it_up(engine: Engine) -> None:
    for rows in (1, 3, 8):
        assert engine.infer(Sampler(engine.inputs).zeros(rows))["scores"].shape == (rows, 4)


def test_closed_engines_give_their_memory_back(load: Load, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(0, 1, (2048, 8192)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "it")
    path = saved(model_of([node], [value("x", ("n", 2048))], [value("y", ("n", 8192))], {"w": weights}), tmp_path / "m")
    before = resident_bytes()
    assert before is not None
    for _ in range(4):
        engine, growth = loaded_with_growth(
            lambda: load(path), lambda engine: engine.infer(Sampler(engine.inputs).zeros(4))
        )
        assert growth is not None
        assert growth > weights.nbytes // 2
        engine.close()
    after = resident_bytes()
    assert after is not None
    assert after - before < 2 * weights.nbytes


def test_made_up_rows_are_as_long_as_a_network_with_open_axes_needs(load: Load, tmp_path: Path) -> None:
    engine = load(saved(u_net(), tmp_path / "m.onnx"))
    sampler = sampler_for(engine)
    assert sampler is not None
    assert sampler.extent == 32
    assert engine.infer(sampler.random(2, seed=0))["y"].shape == (2, 7, 32, 32)
    assert engine.infer({"x": np.zeros((3, 3, 48, 64), np.float32)})["y"].shape == (3, 7, 48, 64)
    engine.close()


def test_an_engine_without_open_axes_is_not_run_to_find_what_it_takes(engine: Engine) -> None:
    sampler = sampler_for(engine)
    assert sampler is not None
    assert sampler.zeros(2)["x"].shape == (2, 3, 8, 8)
