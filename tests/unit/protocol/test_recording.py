"""Requests that came to no route count under what should have answered them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.errors import NoReadyVersion
from service.protocol.recording import request_metrics
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.served_models import STABLE, deployment, served
from tests.unit.router.router_bench import run


def test_an_unloaded_model_keeps_its_series_and_what_nobody_deployed_makes_none() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(replace(deployment(revision=2), loaded=False)))
        with pytest.raises(NoReadyVersion):
            router.routes("m")
        for version in (None, 1):
            assert request_metrics(router, ("m", version), None).labels == ("m", "1", STABLE, "stable")
        for target in (("m", 2), ("n", None)):
            assert request_metrics(router, target, None).labels == ("", "", "", "")

    run(scenario)
