"""Every test of the protocol runs twice: on the direct way through the HTTP protocol, and through plain ASGI."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.oip.serving import Serving, running


@pytest.fixture(scope="module", params=["direct", "asgi"])
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with running(tmp_path_factory.mktemp("serving"), direct=request.param == "direct") as started:
        yield started
