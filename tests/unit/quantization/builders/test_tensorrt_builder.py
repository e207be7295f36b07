"""TensorRT engines are built here with no GPU; what TensorRT refuses or would bend is an error with its next step."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.domain.recipe import BatchProfile
from service.engines import gpu_requirements
from service.engines.cuda_device import CudaDevice
from service.engines.tensorrt_engine import TensorRtEngine
from service.errors import EngineFailed, InvalidModel
from service.quantization.builders import tensorrt_builder, tensorrt_targets
from service.quantization.builders.builder import BuildOptions, builder_for
from service.quantization.builders.tensorrt_builder import TensorRtBuilder
from service.quantization.builders.tensorrt_log import BuildLog
from service.quantization.kept_files import RUNTIME_CACHE
from tests.unit.quantization.small_models import classifier, saved

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
OPTIONS = BuildOptions(1, BatchProfile(1, 2, 4))
ROW = ["batch", 4]
node = helper.make_node


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tensorrt_builder, tensorrt_targets):
        monkeypatch.setattr(module, "find_device", lambda: None)
    monkeypatch.setattr(tensorrt_builder, "why_no_device", lambda: "no driver; install one")


def with_gpu(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    fields: dict[str, Any] = {
        "name": "RTX A", "compute_capability": "8.6", "driver": "13.0", "memory_bytes": 2**33
    } | changed  # fmt: skip
    for module in (tensorrt_builder, tensorrt_targets, gpu_requirements):
        monkeypatch.setattr(module, "find_device", lambda: CudaDevice(**fields))


def model(
    nodes: list[NodeProto],
    constants: dict[str, Any] | None = None,
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    shape: list[Any] = ROW,
) -> ModelProto:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    fed = helper.make_tensor_value_info("x", kinds[0], shape)
    made = helper.make_tensor_value_info("y", kinds[1], None)
    graph = helper.make_graph(nodes, "g", [fed], [made], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def build(made: ModelProto, folder: Path, options: BuildOptions = OPTIONS) -> dict[str, Any]:
    converted = saved(made, folder / "converted.onnx")
    return TensorRtBuilder().build(converted, folder / "engine.plan", options)


def test_an_engine_is_built_and_tells_of_itself(tmp_path: Path) -> None:
    builder = builder_for("tensorrt")
    assert isinstance(builder, TensorRtBuilder)
    notes = build(classifier(), tmp_path)
    assert (tmp_path / "engine.plan").stat().st_size > 1000
    assert notes["built_for"] == ["8.0", "8.6", "8.9", "12.0", "12.1"]
    assert notes["batch"] == {"min": 1, "opt": 2, "max": 4}
    assert notes["memory"]["weights_bytes"] > 0
    assert {layer["type"] for layer in notes["network"]} - {"INT64"} == {"FLOAT"}
    assert {"name": "dw", "operator": "correlation", "int8": False} in notes["executed"]
    assert builder.why_not_here() == "no NVIDIA device on this host; no driver; install one"


def recurrent() -> ModelProto:
    """A GRU over five steps of four numbers: TensorRT's parser makes a loop of it."""
    weights = {"w": np.ones((1, 12, 4), np.float32), "r": np.ones((1, 12, 4), np.float32)}
    nodes = [node("Transpose", ["x"], ["t"], "t", perm=[1, 0, 2]), node("GRU", ["t", "w", "r"], ["y"], hidden_size=4)]
    return model(nodes, weights, shape=["batch", 5, 4])


def test_a_network_whose_loop_has_layers_without_a_result_is_built_and_told_of(tmp_path: Path) -> None:
    notes = build(recurrent(), tmp_path)
    assert {layer["kind"] for layer in notes["network"] if layer["type"] == "none"} == {"TRIP_LIMIT"}
    assert (tmp_path / "engine.plan").stat().st_size > 1000


def test_with_a_gpu_what_tensorrt_lacks_there_leaves_the_engine_unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch)
    assert TensorRtBuilder().why_not_here() == ""
    with_gpu(monkeypatch, driver="12.4")
    assert TensorRtBuilder().why_not_here().startswith("the NVIDIA driver runs CUDA up to 12.4, and TensorRT needs")


def test_the_profile_begins_at_one_row_whatever_the_smallest_batch_of_the_recipe_is(tmp_path: Path) -> None:
    notes = build(classifier(), tmp_path, BuildOptions(1, BatchProfile(2, 3, 4)))
    assert notes["batch"] == {"min": 1, "opt": 3, "max": 4}
    assert "(1, 3, 4)" in notes["reproduce"]


def test_the_script_builds_the_same_engine_by_hand(tmp_path: Path) -> None:
    notes = build(classifier(), tmp_path)
    script = tmp_path / "build.py"
    script.write_text(notes["reproduce"])
    command = [sys.executable, str(script), str(tmp_path / "converted.onnx"), str(tmp_path / "by_hand.plan")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    sizes = [(tmp_path / name).stat().st_size for name in ("engine.plan", "by_hand.plan")]
    assert abs(sizes[0] - sizes[1]) < 0.1 * sizes[0]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            model([node("Relu", ["x"], ["a"], "first"), node("NonZero", ["a"], ["y"], "where")],
                  kinds=(TensorProto.FLOAT, TensorProto.INT64)),
            r"parser refuses node 'where' \(NonZero\): .*plugin.*; export the model without this operator, or",
        ),
        (
            model([node("ConvInteger", ["x", "w"], ["y"], "integers")], {"w": np.ones((4, 3, 3, 3), np.uint8)},
                  (TensorProto.UINT8, TensorProto.INT32), ["batch", 3, 8, 8]),
            "ConvInteger 'integers' is refused; write Q/DQ nodes around a float operator",
        ),
        (
            model([node("Det", ["x"], ["y"], "det")], shape=["batch", 4, 4]),
            r"refuses node 'det' \(Det\): it does not take this operator \(checkDet\); export",
        ),
        (
            model([node("Gather", ["x", "far"], ["y"], "pick")], {"far": np.array([2**40], np.int64)}),
            r"node 'pick' \(Gather\) reads 1099511627776 from INT64 tensor 'far', which overflows the INT32 .* 214",
        ),
        (
            model([node("Tile", ["x", "often"], ["y"], "tile")], {"often": np.array([1, -(2**40)], np.int64)}),
            r"node 'tile' \(Tile\) reads -1099511627776",
        ),
        (
            model([node("Relu", ["x"], ["y"], "r")], shape=["batch", 4, "width"]),
            r"axis 2 \('width'\) of input 'x' is open.*export the model with that axis fixed, or build for runtime",
        ),
        (
            model([node("Relu", ["x"], ["y"], "r")], kinds=(TensorProto.DOUBLE, TensorProto.DOUBLE)),
            "input 'x' is DOUBLE, which TensorRT does not take as it is; export the model with one of FLOAT",
        ),
        (
            model([node("StringNormalizer", ["x"], ["y"], "text")], kinds=(TensorProto.STRING, TensorProto.STRING)),
            "input 'x' is STRING",
        ),
    ],
    ids=["plugin", "qlinear", "operator", "index", "extent", "open axis", "fp64", "text"],
)  # fmt: skip
def test_what_tensorrt_refuses_or_bends_is_named_with_the_next_step(
    tmp_path: Path, made: ModelProto, words: str
) -> None:
    with pytest.raises(InvalidModel, match=words):
        build(made, tmp_path)
    assert not (tmp_path / "engine.plan").exists()


def test_bounds_of_a_slice_may_be_any_for_they_are_clamped(tmp_path: Path) -> None:
    bounds = {"start": np.array([0], np.int64), "end": np.array([2**63 - 1], np.int64), "axis": np.array([1], np.int64)}
    assert build(model([node("Slice", ["x", "start", "end", "axis"], ["y"], "s")], bounds), tmp_path)


def test_integers_of_64_bits_are_computed_as_such(tmp_path: Path) -> None:
    kinds = (TensorProto.INT64, TensorProto.INT64)
    notes = build(model([node("Mul", ["x", "k"], ["y"], "m")], {"k": np.array([2**40], np.int64)}, kinds), tmp_path)
    assert "INT64" in {layer["type"] for layer in notes["network"]}


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "converted.onnx").write_bytes(b"no model at all")
    with pytest.raises(InvalidModel, match=r"converted.onnx is no ONNX graph"):
        TensorRtBuilder().build(tmp_path / "converted.onnx", tmp_path / "engine.plan", OPTIONS)


def test_an_engine_larger_than_the_gpus_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, memory_bytes=2**20)
    monkeypatch.setattr(tensorrt_builder, "_workspace_bytes", lambda: 2**32)
    with pytest.raises(EngineFailed, match=r"needs \d+ MiB of GPU memory and RTX A has 1; lower batch.max"):
        build(classifier(), tmp_path)
    monkeypatch.setattr(tensorrt_builder, "free_device_bytes", lambda: 2**19)
    with pytest.raises(EngineFailed, match=r"and RTX A has 1, 0\.5 MiB of it free; lower batch\.max"):
        build(classifier(), tmp_path)


def test_kernels_that_find_no_room_for_scratch_say_how_much_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_builder, "_workspace_bytes", lambda: 2**20)
    with pytest.raises(EngineFailed, match=r"no tactics .* its kernels may take 1 MiB on this host: lower batch.max"):
        build(classifier(), tmp_path)
    monkeypatch.setattr(tensorrt_builder, "free_device_bytes", lambda: 3 * 2**20)
    with pytest.raises(EngineFailed, match=r"may take 1 MiB on this host, 3\.0 MiB of it free: lower batch\.max"):
        build(classifier(), tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "[virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (Requested size was 8388608 bytes.)",
        "Requested amount of GPU memory (8388608 bytes) could not be allocated.",
        "Error Code 1: Cuda Runtime (out of memory)",
    ],
)
def test_a_gpu_too_full_to_build_on_is_told_in_memory_and_not_in_operators(words: str) -> None:
    log = BuildLog()
    log.take("ERROR", words)
    told = tensorrt_builder._why_not_built(log)
    assert told.endswith("its kernels may take 4096 MiB on this host: lower batch.max")


def test_the_data_centre_package_builds_on_a_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_builder, "tensorrt_flavour", lambda: ("tensorrt", "11.4"))
    with pytest.raises(EngineFailed, match=r"on the GPU that the engine is for.*or install octavo\[rtx\] instead"):
        build(classifier(), tmp_path)


def test_a_driver_that_is_too_old_is_the_builders_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # For an unknown kind of GPU TensorRT asks the driver, which this host lacks: an old one gives the same error.
    with_gpu(monkeypatch, compute_capability="99.0")
    with pytest.raises(EngineFailed, match=r"TensorRT gave no engine: .*driver version is insufficient"):
        build(classifier(), tmp_path)


def test_what_is_built_on_the_gpu_alone_is_refused_with_what_tensorrt_lacks_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch, driver="12.4")
    lacking = r"here none can be used: the NVIDIA driver runs CUDA up to 12\.4, and TensorRT needs 13\.0; update"
    with pytest.raises(EngineFailed, match=rf"weights is 'stripped', .* {lacking}"):
        build(classifier(), tmp_path, replace(OPTIONS, weights="stripped"))
    monkeypatch.setattr(tensorrt_builder, "tensorrt_flavour", lambda: ("tensorrt", "11.4"))
    with pytest.raises(EngineFailed, match=f"the tensorrt package builds on the GPU .* {lacking}"):
        build(classifier(), tmp_path)


class TimedConfig:
    """TensorRT's configuration as far as timing goes: it takes a cache of its own version, and an empty one."""

    def __init__(self) -> None:
        self.cache = b"none"

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache not in (b"", b"mine"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return type("Cache", (), {"serialize": lambda _: self.cache + b" and more"})()


@pytest.mark.parametrize(
    ("known", "kept"), [(None, b" and more"), (b"mine", b"mine and more"), (b"another's", b" and more")]
)
def test_what_timing_showed_is_kept_and_another_versions_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bytes | None, kept: bytes
) -> None:
    monkeypatch.setattr(tensorrt_builder, "tensorrt_flavour", lambda: ("tensorrt", "11.4"))
    path = tmp_path / "timing.cache"
    if known is not None:
        path.write_bytes(known)
    cache = tensorrt_builder.TimingCache(TimedConfig(), path)
    cache.keep()
    assert path.read_bytes() == kept


def test_the_flavour_that_times_nothing_keeps_no_file(tmp_path: Path) -> None:
    tensorrt_builder.TimingCache(TimedConfig(), tmp_path / "timing.cache").keep()
    assert list(tmp_path.iterdir()) == []


def test_what_validation_compiles_lies_beside_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRtEngine, "load", lambda _path, kernels: kernels)
    kernels: Any = TensorRtBuilder().load(tmp_path / "engine.plan", 1)
    assert kernels.read() is None
    kernels.write(b"kernels")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"kernels"]
    assert (tmp_path / RUNTIME_CACHE).exists()
