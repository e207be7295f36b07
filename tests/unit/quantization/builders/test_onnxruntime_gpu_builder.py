"""The builders for ONNX Runtime's GPU providers: with a GPU they load there, without one they say why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.domain.recipe import BatchProfile
from service.engines.cuda_device import CudaDevice
from service.errors import EngineFailed
from service.quantization.builders import onnxruntime_gpu_builder
from service.quantization.builders.builder import BuildOptions, builder_for
from tests.unit.quantization.small_models import classifier, saved

OPTIONS = BuildOptions(1, BatchProfile())
ON_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt")


@pytest.fixture(params=ON_GPU)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def on(monkeypatch: pytest.MonkeyPatch, device: CudaDevice | None, missing: str = "") -> None:
    monkeypatch.setattr(onnxruntime_gpu_builder, "find_device", lambda: device)
    monkeypatch.setattr(onnxruntime_gpu_builder, "missing_for", lambda runtime: missing)


def test_without_a_gpu_the_graph_is_read_by_the_cpu_and_kept_as_it_is(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, None)
    converted, engine = saved(classifier(), tmp_path / "converted.onnx"), tmp_path / "engine.onnx"
    builder_for(runtime).build(converted, engine, OPTIONS)
    assert engine.read_bytes() == converted.read_bytes()
    assert builder_for(runtime).why_not_here().startswith("no NVIDIA device on this host; ")


def test_a_file_that_is_no_graph_is_refused(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, None)
    (tmp_path / "converted.onnx").write_bytes(b"no model at all")
    with pytest.raises(EngineFailed, match=r"cannot load converted\.onnx"):
        builder_for(runtime).build(tmp_path / "converted.onnx", tmp_path / "engine.onnx", OPTIONS)
    assert not (tmp_path / "engine.onnx").exists()


def test_with_a_gpu_it_is_loaded_there(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, CudaDevice("RTX A", "8.6", "13.0", 2**34))
    loaded: list[tuple[str, str]] = []

    class Opened:
        @classmethod
        def load(cls, path: Path, runtime: str) -> Any:
            loaded.append((path.name, runtime))
            return cls()

        def close(self) -> None:
            loaded.append(("closed", runtime))

    monkeypatch.setattr(onnxruntime_gpu_builder, "OnnxRuntimeGpuEngine", Opened)
    builder_for(runtime).build(saved(classifier(), tmp_path / "converted.onnx"), tmp_path / "engine.onnx", OPTIONS)
    assert loaded == [("converted.onnx", runtime), ("closed", runtime)]
    assert builder_for(runtime).why_not_here() == ""


def test_a_gpu_without_the_provider_is_told_as_such(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, CudaDevice("RTX A", "8.6", "13.0", 2**34), "ONNX Runtime here has no such provider; install it")
    assert builder_for(runtime).why_not_here() == "ONNX Runtime here has no such provider; install it"


def test_the_tensorrt_provider_shows_no_operators(tmp_path: Path) -> None:
    assert builder_for("onnxruntime-tensorrt").executed(tmp_path / "engine.onnx", 1) == ()


def test_the_cuda_providers_operators_are_read_from_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This host has the CPU's provider alone; the way to the other's operators is the same.
    monkeypatch.setattr(onnxruntime_gpu_builder, "cuda_providers", lambda: ["CPUExecutionProvider"])
    executed = builder_for("onnxruntime-cuda").executed(saved(classifier(), tmp_path / "engine.onnx"), 1)
    assert "Conv" in {entry.operator.removeprefix("Fused") for entry in executed}
