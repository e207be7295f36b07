"""What is said of a GPU runtime that cannot run here, and of a TensorRT engine that was made for something else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.engine import EngineArtifact, Fingerprint, Gpu
from service.engines import gpu_requirements
from service.engines.cuda_device import CudaDevice
from service.engines.gpu_requirements import foreign_reason, missing_for
from service.errors import Unsupported
from tests.served_models import artifact

DEVICE = CudaDevice("GPU A", "8.6", "13.0", 1 << 34)
HOST = Fingerprint("cpu", ("avx2",), "none", {"tensorrt": "tensorrt_rtx 1.7"}, gpu=Gpu("GPU A", "8.6", "13.0"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_requirements, "find_device", lambda: DEVICE)
    monkeypatch.setattr(gpu_requirements, "tensorrt_module", lambda: None)


def built(**changes: object) -> EngineArtifact:
    there = Fingerprint("GPU B", (), "13.1", {"tensorrt": "tensorrt_rtx 1.7"}, built_for=("8.0", "8.6"))
    return replace(artifact(variant="int8-tensorrt"), runtime="tensorrt", fingerprint=replace(there, **changes))  # type: ignore[arg-type]


def test_the_processors_runtimes_need_nothing() -> None:
    assert (missing_for("onnxruntime"), missing_for("openvino")) == ("", "")


@pytest.mark.usefixtures("device")
def test_with_a_device_and_tensorrt_nothing_is_missing() -> None:
    assert missing_for("tensorrt") == ""


@pytest.mark.usefixtures("device")
def test_a_missing_tensorrt_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise Unsupported("TensorRT cannot be imported; install it with: pip install 'octavo[gpu]'")

    monkeypatch.setattr(gpu_requirements, "tensorrt_module", fail)
    assert "pip install 'octavo[gpu]'" in missing_for("tensorrt")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("driver", ["12.9", "9.2"])
def test_a_driver_that_is_too_old_is_told_with_the_one_that_is_needed(
    monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    monkeypatch.setattr(gpu_requirements, "find_device", lambda: replace(DEVICE, driver=driver))
    said = f"the NVIDIA driver runs CUDA up to {driver}, and TensorRT needs 13.0; update the driver to release 580"
    assert missing_for("tensorrt").startswith(said)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("runtime", "provider"),
    [("onnxruntime-cuda", "CUDAExecutionProvider"), ("onnxruntime-tensorrt", "TensorrtExecutionProvider")],
)
def test_an_onnx_runtime_without_the_provider_is_told_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch, runtime: str, provider: str
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert f"has no {provider}; install octavo[gpu] in place of octavo[cpu]" in missing_for(runtime)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("runtime", "provider", "step"),
    [
        ("onnxruntime-cuda", "CUDAExecutionProvider", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("onnxruntime-tensorrt", "TensorrtExecutionProvider", "quantize for runtime tensorrt"),
    ],
)
def test_a_provider_that_is_listed_and_does_not_load_is_told_with_the_reason_and_the_next_step(
    monkeypatch: pytest.MonkeyPatch, runtime: str, provider: str, step: str
) -> None:
    reasons = {provider: "libsomething.so.10: cannot open shared object file"}
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [provider])
    monkeypatch.setattr("service.engines.onnxruntime_provider.why_not_loaded", reasons.__getitem__)
    told = missing_for(runtime)
    assert f"cannot load its {provider}: libsomething.so.10: cannot open shared object file; it needs" in told
    assert step in told
    reasons[provider] = ""
    assert missing_for(runtime) == ""


def test_an_engine_of_the_same_tensorrt_for_this_capability_is_not_foreign_whatever_gpu_built_it() -> None:
    assert foreign_reason(built(), HOST) == ""
    assert foreign_reason(built(built_for=()), HOST) == ""


def test_another_flavour_version_or_capability_is_told_with_both_sides_and_the_next_step() -> None:
    step = "quantize again on this host, or deploy another variant"
    assert foreign_reason(built(libraries={"tensorrt": "tensorrt 11.4"}), HOST) == (
        "it was built by tensorrt 11.4 for compute capability 8.0, 8.6, and here is tensorrt_rtx 1.7 on 8.6; " + step
    )
    assert foreign_reason(built(libraries={"tensorrt": "tensorrt_rtx 1.6"}), HOST).startswith(
        "it was built by tensorrt_rtx 1.6"
    )
    assert foreign_reason(built(built_for=("9.0",)), HOST) == (
        "it was built by tensorrt_rtx 1.7 for compute capability 9.0, and here is tensorrt_rtx 1.7 on 8.6; " + step
    )
    there = Gpu("GPU C", "9.0", "13.0")
    assert "for compute capability 9.0" in foreign_reason(built(built_for=(), gpu=there), HOST)


def test_only_tensorrt_engines_are_bound_to_their_host() -> None:
    foreign = built(libraries={"onnxruntime-cuda": "1"}, built_for=("1.0",))
    assert foreign_reason(replace(foreign, runtime="onnxruntime-cuda"), HOST) == ""
    assert foreign_reason(replace(built(), fingerprint=None), HOST) == ""
