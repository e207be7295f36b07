"""A stage of the pipeline that plans for another CPU than the one it runs on, in a child process of its own.

A process under qemu's user mode still reads the host's /proc/cpuinfo, and would take hours for what needs no emulation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from service.engines import fingerprint
from service.quantization import pipeline


def run_stage(arguments: dict[str, Any], report_progress: Callable[[float], None]) -> dict[str, Any]:
    """As the pipeline's run_stage, with `arguments["cpu_flags"]` instead of the host's."""
    flags = tuple(arguments["cpu_flags"])
    with patch.object(fingerprint, "_cpu", return_value=(f"a CPU with {' '.join(flags)}", flags)):
        fingerprint.host_fingerprint.cache_clear()
        try:
            return pipeline.run_stage(arguments, report_progress)
        finally:
            fingerprint.host_fingerprint.cache_clear()
