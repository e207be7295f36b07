"""One real server for the tests that leave nothing behind, and the means to see that they do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.installation import served
from tests.waiting import wait_until

MAX_UPLOAD_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class Installation:
    """A running server and the folder it keeps its state in."""

    client: httpx.Client
    data_dir: Path

    def state(self) -> dict[str, Any]:
        """All that a refused request must leave as it was."""
        listed = {path: self.client.get(path).json() for path in ("/models", "/datasets", "/jobs")}
        files = {str(path.relative_to(self.data_dir)) for path in self.stored_files()}
        return listed | {"files": files}

    def stored_files(self) -> list[Path]:
        return [path for path in (self.data_dir / "store").rglob("*") if path.is_file()]

    def spooled(self) -> list[Path]:
        return list((self.data_dir / "spool").iterdir())

    @contextmanager
    def unchanged(self) -> Iterator[httpx.Client]:
        """A block whose requests must leave nothing behind."""
        before = self.state()
        yield self.client
        # The answer leaves just before the spool is cleared.
        wait_until(lambda: not self.spooled())
        assert self.state() == before


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """`octavo serve` on an empty folder of its own."""
    data_dir = tmp_path_factory.mktemp("installation")
    with served(data_dir, OCTAVO_MAX_UPLOAD_BYTES=str(MAX_UPLOAD_BYTES)) as client:
        yield Installation(client, data_dir)
