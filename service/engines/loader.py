"""From an artifact's file to a loaded engine. Refuses a runtime that this process has no adapter for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from service.domain.engine import GPU_RUNTIMES, EngineArtifact, Fingerprint
from service.engines.engine import Engine
from service.engines.fingerprint import host_fingerprint
from service.engines.gpu_requirements import foreign_reason, missing_for
from service.engines.runtime_cache import CacheStore
from service.errors import EngineFailed, Unsupported

_log = logging.getLogger(__name__)
_EXTRAS = {"onnxruntime": "cpu"} | dict.fromkeys(GPU_RUNTIMES, "gpu")


def _open_onnxruntime(path: Path, threads: int, instances: int, kernels: CacheStore | None) -> Engine:
    from service.engines.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine.load(path, threads)


def _open_openvino(path: Path, threads: int, instances: int, kernels: CacheStore | None) -> Engine:
    from service.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine.load(path, threads, instances)


def _open_tensorrt(path: Path, threads: int, instances: int, kernels: CacheStore | None) -> Engine:
    from service.engines.tensorrt_engine import TensorRtEngine

    return TensorRtEngine.load(path, instances, kernels)


def _open_onnxruntime_cuda(path: Path, threads: int, instances: int, kernels: CacheStore | None) -> Engine:
    from service.engines.onnxruntime_gpu_engine import OnnxRuntimeGpuEngine

    return OnnxRuntimeGpuEngine.load(path, "onnxruntime-cuda")


def _open_onnxruntime_tensorrt(path: Path, threads: int, instances: int, kernels: CacheStore | None) -> Engine:
    from service.engines.onnxruntime_gpu_engine import OnnxRuntimeGpuEngine

    return OnnxRuntimeGpuEngine.load(path, "onnxruntime-tensorrt")


# An adapter is imported with the first engine of its runtime: a process that serves none of them starts without it.
_ADAPTERS: dict[str, Callable[[Path, int, int, CacheStore | None], Engine]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
    "onnxruntime-cuda": _open_onnxruntime_cuda,
    "onnxruntime-tensorrt": _open_onnxruntime_tensorrt,
}
RUNTIMES = tuple(_ADAPTERS)


def load_engine(
    path: Path, artifact: EngineArtifact, threads: int, instances: int = 1, kernels: CacheStore | None = None
) -> Engine:
    """Opens `path` by the artifact's runtime for `instances` batches at once, `threads` threads each; blocks.

    `kernels` is where those are kept that a runtime compiles for the device while it runs; TensorRT-RTX alone does.

    A CPU engine from another host still runs, so a foreign fingerprint is logged and not refused. Raises Unsupported
    for an unknown runtime, one that cannot run here, or a TensorRT engine that was built for something else, and
    EngineFailed with the runtime's own words.
    """
    check_runs_here(artifact)
    differences = foreign_parts(artifact, host_fingerprint())
    if differences:
        _log.warning(
            "engine was proven on another host; its measured accuracy and latency may not hold here",
            extra={"model": artifact.model, "variant": artifact.variant, "differences": differences},
        )
    return _ADAPTERS[artifact.runtime](path, threads, instances, kernels)


def check_bytes(path: Path, artifact: EngineArtifact) -> None:
    """Raises EngineFailed unless these are the bytes that were uploaded, or validated: a certificate is theirs alone.

    Reads the whole file.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != artifact.sha256:
        raise EngineFailed(
            f"the stored file of variant {artifact.variant!r} of model {artifact.model!r} is not what was registered: "
            f"its SHA-256 is {found}, not {artifact.sha256}; restore blob {artifact.blob_key!r}, or quantize or upload "
            "again"
        )


def check_runs_here(artifact: EngineArtifact) -> None:
    """Raises Unsupported with what the artifact needs, what is missing here, and the next step. Reads no file."""
    engine = f"variant {artifact.variant!r} of model {artifact.model!r}"
    wanted = f"{engine} needs runtime {artifact.runtime!r}"
    if artifact.runtime not in _ADAPTERS:
        raise Unsupported(f"{wanted}; this process runs {', '.join(RUNTIMES)}: deploy a variant of one of these")
    if artifact.runtime not in GPU_RUNTIMES:
        if find_spec(artifact.runtime) is None:
            raise Unsupported(f"{wanted}, which is not installed here; {install_hint(artifact.runtime)}")
        return
    missing = missing_for(artifact.runtime)
    if missing:
        raise Unsupported(f"{wanted}, which cannot run here: {missing}")
    foreign = foreign_reason(artifact, host_fingerprint())
    if foreign:
        raise Unsupported(f"{engine} cannot be loaded here: {foreign}")


def install_hint(runtime: str) -> str:
    """The command that installs a runtime beside Octavo."""
    return f"install it with: pip install 'octavo[{_EXTRAS.get(runtime, runtime)}]'"


def foreign_parts(artifact: EngineArtifact, here: Fingerprint) -> list[str]:
    """What differs between this host and the one the artifact was proven on, each as `name: there -> here`.

    Of the libraries only the artifact's own runtime counts. None for an artifact that was proven nowhere.
    """
    there = artifact.fingerprint
    if there is None:
        return []
    library = artifact.runtime
    if library in GPU_RUNTIMES:
        here = here.on_gpu()
    pairs = {
        "device": (there.device, here.device),
        "flags": (" ".join(there.flags), " ".join(here.flags)),
        "driver": (there.driver, here.driver),
        library: (there.libraries.get(library, "none"), here.libraries.get(library, "none")),
    }
    return [f"{name}: {then} -> {now}" for name, (then, now) in pairs.items() if then != now]
