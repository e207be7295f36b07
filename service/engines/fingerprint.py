"""What this host is, as far as a measured accuracy or latency depends on it."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.domain.engine import GPU_RUNTIMES, Fingerprint, Gpu
from service.engines.cuda_device import find_device

# CPU flags that choose a different integer or float kernel, and so may change results or speed.
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd",
          "asimddp", "i8mm", "bf16")  # fmt: skip
_LIBRARIES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "onnxruntime-tensorrt": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
}
# Neither flavour of TensorRT loads the other's engines, so its name belongs to the version. In tensorrt_import's order.
_TENSORRT = (("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx"), ("tensorrt_rtx", "tensorrt-rtx-cu13-bindings"))


def engine_fingerprint(runtime: str, built_for: tuple[str, ...] = ()) -> Fingerprint:
    """This host as engines of one runtime depend on it: other runtimes, and for a CPU's the GPU, may come and go.

    `built_for` are the compute capabilities that the engine was compiled for.
    """
    here = host_fingerprint()
    seen = here.on_gpu() if runtime in GPU_RUNTIMES else replace(here, gpu=None)
    libraries = {name: found for name, found in here.libraries.items() if name == runtime}
    return replace(seen, libraries=libraries, built_for=built_for)


@lru_cache(maxsize=1)
def host_fingerprint() -> Fingerprint:
    """The CPU's model and kernel-choosing flags, the GPU, and the versions of all runtimes that are installed."""
    model, flags = _cpu()
    found = find_device()
    gpu = Gpu(found.name, found.compute_capability, found.driver) if found is not None else None
    return Fingerprint(device=model, flags=flags, driver="none", libraries=_libraries(), gpu=gpu)


def _cpu() -> tuple[str, tuple[str, ...]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), ()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    present = set((named.get("flags") or named.get("Features") or "").split())
    model = named.get("model name") or platform.machine()
    return model, tuple(flag for flag in _FLAGS if flag in present)


def _libraries() -> dict[str, str]:
    found: dict[str, str] = {}
    for library, distributions in _LIBRARIES.items():
        for distribution in distributions:
            try:
                found[library] = version(distribution)
            except PackageNotFoundError:
                continue
    for flavour, distribution in _TENSORRT:
        with suppress(PackageNotFoundError):
            found.setdefault("tensorrt", f"{flavour} {version(distribution)}")
    return found
