"""`python -m tests.gpu`: runs the tests marked gpu; 2, with the reason, where nothing could run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from service.domain.engine import GPU_RUNTIMES
from service.engines.gpu_requirements import missing_for


def main() -> int:
    missing = {runtime: reason for runtime in GPU_RUNTIMES if (reason := missing_for(runtime))}
    if len(missing) == len(GPU_RUNTIMES):
        print(f"No test was run, for they need an NVIDIA GPU: {missing['tensorrt']}", file=sys.stderr)
        return 2
    # This folder alone: no other has such tests, and importing all of them takes longer than running these.
    return int(pytest.main(["-m", "gpu", str(Path(__file__).parent)]))


if __name__ == "__main__":
    sys.exit(main())
