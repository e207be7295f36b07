"""What a GPU runtime needs of this host, and whether it is here. Says what is missing, and the next step."""

from __future__ import annotations

from service.domain.engine import GPU_RUNTIMES, EngineArtifact, Fingerprint
from service.engines.cuda_device import CudaDevice, find_device, why_no_device
from service.engines.tensorrt_import import tensorrt_module
from service.errors import Unsupported

# The wheels of TensorRT 11 are made for CUDA 13.
_TENSORRT_CUDA = (13, 0)
_TENSORRT_DRIVER = "release 580 or newer"
# What ONNX Runtime 1.31 is linked with, whatever TensorRT is installed beside it.
_PROVIDER_NEEDS = {
    "onnxruntime-cuda": (
        f"it needs a driver of {_TENSORRT_DRIVER}, CUDA 13 and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]' "
        "brings the latter two, and the GPU image has them"
    ),
    "onnxruntime-tensorrt": (
        f"it needs a driver of {_TENSORRT_DRIVER}, CUDA 13, cuDNN 9 and TensorRT 10, not 11: install libnvinfer10 and "
        "libnvonnxparsers10, or quantize for runtime tensorrt instead"
    ),
}


def missing_for(runtime: str) -> str:
    """Why engines of a GPU runtime cannot run here, with the next step; "" where they can, and for other runtimes."""
    if runtime not in GPU_RUNTIMES:
        return ""
    device = find_device()
    if device is None:
        return why_no_device()
    return _missing_for_tensorrt(device) if runtime == "tensorrt" else _missing_provider(runtime)


def _missing_for_tensorrt(device: CudaDevice) -> str:
    try:
        tensorrt_module()
    except Unsupported as error:
        return str(error)
    if tuple(int(part) for part in device.driver.split(".")) < _TENSORRT_CUDA:
        wanted = ".".join(map(str, _TENSORRT_CUDA))
        return (
            f"the NVIDIA driver runs CUDA up to {device.driver}, and TensorRT needs {wanted}; update the driver to "
            f"{_TENSORRT_DRIVER}"
        )
    return ""


def _missing_provider(runtime: str) -> str:
    try:
        import onnxruntime as ort

        from service.engines.onnxruntime_gpu_engine import PROVIDERS
        from service.engines.onnxruntime_provider import why_not_loaded
    except ImportError as error:
        return f"ONNX Runtime cannot be imported: {error}; install it with: pip install 'octavo[gpu]'"
    provider = PROVIDERS[runtime]
    release = f"ONNX Runtime {ort.__version__} here"
    if provider not in ort.get_available_providers():
        return f"{release} has no {provider}; install octavo[gpu] in place of octavo[cpu]"
    reason = why_not_loaded(provider)
    return f"{release} cannot load its {provider}: {reason}; {_PROVIDER_NEEDS[runtime]}" if reason else ""


def foreign_reason(artifact: EngineArtifact, here: Fingerprint) -> str:
    """Why a TensorRT engine of another flavour, version or compute capability cannot be loaded here; "" where it can.

    A plan holds machine code: unlike a CPU's engine it does not run elsewhere, only slower. Another GPU of the same
    capability, or driver, is no reason.
    """
    there = artifact.fingerprint
    if artifact.runtime != "tensorrt" or there is None:
        return ""
    built_by, found = there.libraries.get("tensorrt", "none"), here.libraries.get("tensorrt", "none")
    capabilities = there.built_for or ((there.gpu.compute_capability,) if there.gpu else ())
    capability = here.gpu.compute_capability if here.gpu else "none"
    if built_by == found and (not capabilities or capability in capabilities):
        return ""
    return (
        f"it was built by {built_by} for compute capability {', '.join(capabilities) or 'unknown'}, and here is "
        f"{found} on {capability}; quantize again on this host, or deploy another variant"
    )
