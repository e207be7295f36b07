"""Weights apart from a TensorRT plan and sparse weights: what the builder is told, makes of them, and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import ModelProto, helper

from service.domain.recipe import BatchProfile
from service.engines import gpu_requirements
from service.engines.cuda_device import CudaDevice
from service.engines.stripped_plan import read_plan
from service.engines.tensorrt_import import tensorrt_module
from service.errors import EngineFailed
from service.quantization.builders import tensorrt_builder, tensorrt_targets
from service.quantization.builders.builder import BuildOptions
from service.quantization.builders.tensorrt_builder import TensorRtBuilder
from service.quantization.builders.tensorrt_flags import flags_of, is_shaped_by_data, set_flags
from service.quantization.graphs.sparsity import prune
from tests.unit.quantization.small_models import classifier, model_of, saved, value

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
OPTIONS = BuildOptions(1, BatchProfile(1, 2, 4))
CAPTURABLE = "REQUIRE_USER_ALLOCATION"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tensorrt_builder, tensorrt_targets):
        monkeypatch.setattr(module, "find_device", lambda: None)
    monkeypatch.setattr(tensorrt_builder, "why_no_device", lambda: "no driver; install one")


def build(made: ModelProto, folder: Path, options: BuildOptions = OPTIONS) -> dict[str, Any]:
    converted = saved(made, folder / "converted.onnx")
    return TensorRtBuilder().build(converted, folder / "engine.plan", options)


def test_a_whole_plan_is_no_archive(tmp_path: Path) -> None:
    notes = build(classifier(), tmp_path)
    content = (tmp_path / "engine.plan").read_bytes()
    assert read_plan(tmp_path / "engine.plan") == (content, None)
    assert (notes["weights"], notes["plan_bytes"], notes["portable"]) == ("fixed", len(content), True)


@pytest.mark.parametrize("weights", ["refittable", "stripped"])
def test_weights_apart_from_the_plan_are_refused_without_a_gpu(tmp_path: Path, weights: str) -> None:
    with pytest.raises(EngineFailed, match=rf"weights is '{weights}', which TensorRT builds on the GPU .* no driver;"):
        build(classifier(), tmp_path, replace(OPTIONS, weights=weights))
    assert not (tmp_path / "engine.plan").exists()


@pytest.mark.parametrize(
    ("weights", "sparse", "flags"),
    [
        ("fixed", False, (CAPTURABLE,)),
        ("fixed", True, ("SPARSE_WEIGHTS", CAPTURABLE)),
        ("refittable", False, ("REFIT", CAPTURABLE)),
        ("stripped", True, ("STRIP_PLAN", "REFIT_IDENTICAL", "SPARSE_WEIGHTS", CAPTURABLE)),
    ],
)
def test_the_builder_takes_the_flags_of_a_recipe(weights: str, sparse: bool, flags: tuple[str, ...]) -> None:
    trt = tensorrt_module()
    assert flags_of(trt, weights, sparse) == flags
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    set_flags(trt, config, flags)
    found = {name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)}
    assert found >= set(flags)
    assert "TF32" not in found


def test_an_engine_may_be_captured_unless_its_data_tell_shapes(tmp_path: Path) -> None:
    assert f"'{CAPTURABLE}'" in build(classifier(), tmp_path)["reproduce"]
    picking = model_of([helper.make_node("NonZero", ["x"], ["y"])], [value("x", ("n", 4))], [value("y", (2, "k"))])
    assert is_shaped_by_data(picking)
    assert CAPTURABLE not in flags_of(tensorrt_module(), "fixed", False, is_shaped_by_data(picking))


def test_a_tensorrt_without_the_flag_is_told_as_such() -> None:
    older = SimpleNamespace(__version__="9.0", BuilderFlag=SimpleNamespace(__members__={"TF32": 1}))
    with pytest.raises(EngineFailed, match=r"this TensorRT \(9\.0\) lacks the builder flag STRIP"):
        flags_of(older, "stripped", False)
    assert flags_of(older, "fixed", True) == ()


def test_a_stripped_engine_is_for_this_gpu_and_carries_the_graph_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tensorrt_builder, tensorrt_targets, gpu_requirements):
        monkeypatch.setattr(module, "find_device", lambda: CudaDevice("RTX A", "8.6", "13.0", 2**33))
    # TensorRT-RTX strips on a device alone; what is made of its plan does not depend on that.
    monkeypatch.setattr(tensorrt_builder, "flags_of", lambda *_: ())
    notes = build(classifier(), tmp_path, replace(OPTIONS, weights="stripped"))
    plan, weights = read_plan(tmp_path / "engine.plan")
    assert weights == (tmp_path / "converted.onnx").read_bytes()
    assert len(plan) == notes["plan_bytes"]
    assert (notes["built_for"], notes["portable"], notes["weights"]) == (["8.6"], False, "stripped")


def test_sparse_weights_may_be_multiplied_as_such(tmp_path: Path) -> None:
    pruned = classifier()
    prune(pruned)
    notes = build(pruned, tmp_path)
    assert notes["sparse_operators"] == ["pw", "head"]
    assert "'SPARSE_WEIGHTS'" in notes["reproduce"]
    assert build(classifier(), tmp_path)["sparse_operators"] == []


def test_tensorrt_rtx_compiles_sparse_weights_like_any_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Documented as such: where a newer one differs here, the documents are to say what is gained.
    pruned = classifier()
    prune(pruned)
    build(pruned, tmp_path)
    allowed = (tmp_path / "engine.plan").read_bytes()
    monkeypatch.setattr(tensorrt_builder, "flags_of", lambda *_: (CAPTURABLE,))
    build(pruned, tmp_path)
    assert (tmp_path / "engine.plan").read_bytes() == allowed
