"""Every engine that this host can load, each opened by the loader that serving uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.domain.engine import GPU_RUNTIMES
from service.engines.engine import Engine
from service.engines.loader import RUNTIMES, load_engine
from tests.served_models import artifact

Load = Callable[[Path], Engine]


@pytest.fixture(params=[runtime for runtime in RUNTIMES if runtime not in GPU_RUNTIMES])
def load(request: pytest.FixtureRequest) -> Load:
    """Opens an ONNX file on one of the processor's runtimes, with two threads; tests/gpu has the GPU's."""
    runtime: str = request.param
    if find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")

    def open_one(path: Path) -> Engine:
        return load_engine(path, replace(artifact(), runtime=runtime), threads=2)

    return open_one
