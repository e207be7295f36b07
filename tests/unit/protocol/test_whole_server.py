"""Settings that outlive what they were made for can still be given up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.domain.limits import InferLimits
from service.errors import NotFound
from service.protocol.trace_file import TraceFile
from service.protocol.tracing import Tracer
from service.protocol.whole_server import WholeServer
from service.router.router import Router


def test_the_own_trace_settings_of_a_model_that_is_deployed_no_more_can_be_read_and_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        tracer = Tracer(TraceFile(tmp_path / "traces.json"))
        whole = WholeServer(Router(InferLimits(), lambda _: pytest.fail("nothing is loaded")), tracer)
        with pytest.raises(NotFound, match="unknown model: 'gone'"):
            await whole.change_trace({"trace_level": ["TIMESTAMPS"]}, "gone")
        # As it was while the model was deployed.
        tracer.change({"trace_level": ["TIMESTAMPS"]}, "gone")
        assert whole.trace("gone")["trace_level"] == ["TIMESTAMPS"]
        assert (await whole.change_trace({"trace_level": None}, "gone"))["trace_level"] == ["OFF"]
        assert not tracer.active
        with pytest.raises(NotFound):
            whole.trace("gone")
        await tracer.close()

    asyncio.run(main())
