"""Paths of inference are looked up once, and none is kept that no model can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.api.inference import InferenceEndpoint
from service.domain.limits import InferLimits
from service.protocol.trace_file import TraceFile
from service.protocol.tracing import Tracer
from service.router.router import Router


def test_a_path_longer_than_any_models_is_not_kept(tmp_path: Path) -> None:
    router = Router(InferLimits(), lambda _: pytest.fail("nothing is loaded here"))
    endpoint = InferenceEndpoint(router, 1024, Tracer(TraceFile(tmp_path / "traces.json")))
    name = "a" * 60_000
    assert endpoint.target(f"/v2/models/{name}/infer") == (name, None)
    assert endpoint.target("/v2/models/m/versions/3/infer") == ("m", 3)
    assert list(endpoint._targets) == ["/v2/models/m/versions/3/infer"]
