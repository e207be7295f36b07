"""Every engine of a GPU runtime, each opened by the loader that serving uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_plans import build_plan
from service.domain.engine import GPU_RUNTIMES
from service.engines.engine import Engine
from service.engines.gpu_requirements import missing_for
from service.engines.loader import load_engine
from tests.served_models import artifact

Load = Callable[[Path], Engine]
LARGEST_BATCH = 64
# Of other axes than the rows: where the contract finds the first size that its network of open axes takes, and what it
# asks of it then.
OPEN_EXTENTS = (32, 64)


@pytest.fixture(params=GPU_RUNTIMES)
def load(request: pytest.FixtureRequest) -> Iterator[Load]:
    """Opens an ONNX file on one runtime; for TensorRT it is compiled first, for 1 to 64 rows and without TF32."""
    runtime: str = request.param
    missing = missing_for(runtime)
    if missing:
        pytest.skip(missing)
    with opening(runtime) as load:
        yield load


@contextmanager
def opening(runtime: str) -> Iterator[Load]:
    """Closes TensorRT's engines at the end: of one that is dropped instead, Python frees what the others point to."""
    with ExitStack() as opened:

        def open_one(path: Path) -> Engine:
            if runtime == "tensorrt":
                path = compiled(path)
            engine = load_engine(path, replace(artifact(), runtime=runtime), threads=1)
            if runtime == "tensorrt":
                opened.callback(engine.close)
            return engine

        yield open_one


def compiled(model: Path) -> Path:
    """The plan of an ONNX file, beside it."""
    return build_plan(model, model.with_suffix(".plan"), (1, LARGEST_BATCH), tf32=False, extents=OPEN_EXTENTS)
