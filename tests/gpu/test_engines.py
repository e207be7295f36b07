"""The engine contract on the device: TensorRT and ONNX Runtime's two GPU providers, beside the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from service.engines.cuda_memory import cuda_context
from service.engines.engine import Compiling
from service.engines.gpu_requirements import missing_for
from service.engines.loader import load_engine
from service.engines.runtime_cache import CacheStore
from service.engines.samples import Sampler
from service.engines.tensorrt_import import tensorrt_module
from service.errors import EngineFailed, InvalidTensor
from tests.contract.engines.test_engines import *  # noqa: F403 (the suite itself, over this folder's `load`)
from tests.gpu.conftest import LARGEST_BATCH, Load, compiled
from tests.served_models import artifact
from tests.unit.quantization.small_models import classifier, images, model_of, saved, value

pytestmark = pytest.mark.gpu


def used_bytes() -> int:
    """Of the device's memory, by whomever."""
    cuda = cuda_context()
    with cuda.active():
        free, total = cuda.driver.mem_get_info()
    return int(total - free)


# Takes the place of the contract's own test, which looks at the process and not at the device.
def test_closed_engines_give_their_memory_back(load: Load, tmp_path: Path) -> None:  # type: ignore[no-redef]
    weights = np.random.default_rng(0).normal(0, 1, (2048, 8192)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "it")
    model = model_of([node], [value("x", ("n", 2048))], [value("y", ("n", 8192))], {"w": weights})
    path = saved(model, tmp_path / "m.onnx")
    load(path).close()
    before = used_bytes()
    for _ in range(4):
        engine = load(path)
        engine.infer(Sampler(engine.inputs).zeros(4))
        assert used_bytes() > before
        engine.close()
    assert used_bytes() - before < weights.nbytes


def test_a_batch_over_the_profile_is_the_callers_error(load: Load, tmp_path: Path) -> None:
    engine = load(saved(classifier(), tmp_path / "m.onnx"))
    if not hasattr(engine, "profiles"):
        pytest.skip("only TensorRT's engines have profiles")
    with pytest.raises(InvalidTensor, match=f"built for 1 to {LARGEST_BATCH} rows"):
        engine.infer({"x": images(LARGEST_BATCH + 1)})


def test_a_shape_that_repeats_is_answered_alike_before_and_after_its_capture(load: Load, tmp_path: Path) -> None:
    engine = load(saved(classifier(), tmp_path / "m.onnx"))
    answers = [engine.infer({"x": images(5)})["scores"] for _ in range(8)]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    changed, alone = (engine.infer({"x": images(count, seed=1)})["scores"][0] for count in (5, 1))
    assert np.allclose(changed, alone, rtol=1e-3)
    assert not np.allclose(changed, answers[0][0], rtol=1e-3)


@pytest.mark.skipif(bool(missing_for("tensorrt")), reason=missing_for("tensorrt"))
def test_kept_kernels_are_taken_by_the_next_load_which_answers_alike_and_has_nothing_new_to_keep(
    tmp_path: Path,
) -> None:
    if not hasattr(tensorrt_module(), "IRuntimeCache"):
        pytest.skip("TensorRT proper compiles when it builds")
    model = saved(classifier(), tmp_path / "m.onnx")
    plan = compiled(model)
    written: list[bytes] = []
    kernels = CacheStore(lambda: written[-1] if written else None, written.append)
    answers = []
    for _ in range(2):
        engine = load_engine(plan, replace(artifact(), runtime="tensorrt"), threads=1, kernels=kernels)
        answers.append(engine.infer({"x": images(5)})["scores"])
        assert isinstance(engine, Compiling)
        engine.keep_compiled()
        engine.close()
    assert np.array_equal(answers[0], answers[1])
    assert len(written) == 1


@pytest.mark.skipif(bool(missing_for("tensorrt")), reason=missing_for("tensorrt"))
def test_a_damaged_plan_is_refused_in_tensorrts_words(tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(b"not an engine" * 100)
    with pytest.raises(EngineFailed, match=r"cannot load engine\.plan \(1300 bytes\)"):
        load_engine(tmp_path / "engine.plan", replace(artifact(), runtime="tensorrt"), threads=1)
