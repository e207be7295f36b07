"""Every test of the protocol runs twice: on the direct way through the HTTP protocol, and through plain ASGI."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.oip.serving import Serving, running


@pytest.fixture(scope="module", params=["direct", "asgi"])
def serving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("serving")
    shutil.copyfile(migrated, folder / "octavo.db")
    with running(folder, direct=request.param == "direct") as started:
        yield started
