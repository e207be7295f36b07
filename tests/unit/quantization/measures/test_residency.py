"""How much memory an engine holds, and that one which cannot run is given back."""

from __future__ import annotations

import pytest

from service.errors import EngineFailed
from service.quantization.measures.residency import loaded_with_growth
from tests.fake_engine import FakeEngine


def test_an_engine_that_fails_its_first_batch_is_closed() -> None:
    engine = FakeEngine()

    def fail(_: object) -> None:
        raise EngineFailed("no memory left")

    with pytest.raises(EngineFailed, match="no memory left"):
        loaded_with_growth(lambda: engine, fail)
    assert engine.closed
