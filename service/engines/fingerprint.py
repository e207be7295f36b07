"""What this host is, as far as a measured accuracy or latency depends on it."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.domain.engine import Fingerprint

# CPU flags that choose a different integer or float kernel, and so may change results or speed.
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd",
          "asimddp", "i8mm", "bf16")  # fmt: skip
_LIBRARIES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}


def engine_fingerprint(runtime: str) -> Fingerprint:
    """This host as engines of one runtime depend on it: other runtimes may come and go beside it."""
    here = host_fingerprint()
    return replace(here, libraries={name: found for name, found in here.libraries.items() if name == runtime})


@lru_cache(maxsize=1)
def host_fingerprint() -> Fingerprint:
    """The CPU's model and kernel-choosing flags, and the versions of all runtimes that are installed."""
    model, flags = _cpu()
    return Fingerprint(device=model, flags=flags, driver="none", libraries=_libraries())


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
    return found
