"""One server for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from tests.contract.grpc.serving import GrpcServing, running


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[GrpcServing]:
    with running(tmp_path_factory.mktemp("serving"), migrated) as started:
        yield started


@pytest.fixture
def client(serving: GrpcServing) -> Iterator[Any]:
    opened = triton.InferenceServerClient(serving.grpc_address)
    yield opened
    opened.close()
