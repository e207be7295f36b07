"""From an artifact's file to a loaded engine. Refuses a runtime that this process has no adapter for."""

from __future__ import annotations

import logging
from pathlib import Path

from service.domain.engine import EngineArtifact, Fingerprint
from service.engines.engine import Engine
from service.engines.fingerprint import host_fingerprint
from service.errors import Unsupported

_log = logging.getLogger(__name__)
RUNTIMES = ("onnxruntime",)


def load_engine(path: Path, artifact: EngineArtifact, threads: int) -> Engine:
    """Opens `path` by the artifact's runtime, with `threads` intra-op threads; blocks while it loads.

    A CPU engine from another host still runs, so a foreign fingerprint is logged and not refused. Raises
    Unsupported for an unknown runtime and EngineFailed with the runtime's own words.
    """
    if artifact.runtime not in RUNTIMES:
        raise Unsupported(
            f"variant {artifact.variant!r} of model {artifact.model!r} needs runtime {artifact.runtime!r}; "
            f"this process runs {', '.join(RUNTIMES)}: deploy a variant of one of these"
        )
    differences = foreign_parts(artifact, host_fingerprint())
    if differences:
        _log.warning(
            "engine was proven on another host; its measured accuracy and latency may not hold here",
            extra={"model": artifact.model, "variant": artifact.variant, "differences": differences},
        )
    # The adapter is imported with the first engine, so a process without models starts without the runtime.
    from service.engines.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine.load(path, threads)


def foreign_parts(artifact: EngineArtifact, here: Fingerprint) -> list[str]:
    """What differs between this host and the one the artifact was proven on, each as `name: there -> here`.

    Of the libraries only the artifact's own runtime counts. None for an artifact that was proven nowhere.
    """
    there = artifact.fingerprint
    if there is None:
        return []
    library = artifact.runtime
    pairs = {
        "device": (there.device, here.device),
        "flags": (" ".join(there.flags), " ".join(here.flags)),
        "driver": (there.driver, here.driver),
        library: (there.libraries.get(library, "none"), here.libraries.get(library, "none")),
    }
    return [f"{name}: {then} -> {now}" for name, (then, now) in pairs.items() if then != now]
