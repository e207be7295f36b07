"""Which requests are traced, what is written of them, and when tracing ends by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.api.trace_file import TraceFile
from service.api.trace_settings import read_changes
from service.api.tracing import Tracer
from service.errors import InvalidInput, Unsupported
from tests.async_waiting import until

ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}


def run(path: Path, scenario: Callable[[Tracer, list[bool]], Any], max_bytes: int = 10_000) -> list[dict[str, Any]]:
    """What the file holds in the end."""

    async def main() -> None:
        switched: list[bool] = []
        tracer = Tracer(TraceFile(path, max_bytes), switched.append)
        try:
            async with asyncio.timeout(10):
                await scenario(tracer, switched)
        finally:
            await tracer.close()

    asyncio.run(main())
    return list(json.loads(path.read_text())) if path.exists() else []


def trace(tracer: Tracer, model: str = "m", request_id: str | None = None) -> bool:
    taken = tracer.takes_next(model)
    if taken:
        tracer.record(model, 1, request_id, {"REQUEST_START": 1.5, "REQUEST_END": 2.0})
    return taken


def test_nothing_is_traced_and_no_file_made_until_somebody_asks(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer, switched: list[bool]) -> None:
        assert not any(trace(tracer) for _ in range(2000))
        assert tracer.shown()["trace_level"] == ["OFF"]
        assert switched == []

    assert run(tmp_path / "t.json", scenario) == []


def test_every_so_many_requests_one_is_traced_and_written_as_the_protocol_has_it(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer, switched: list[bool]) -> None:
        tracer.change({"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
        assert [trace(tracer, request_id="r\ud800") for _ in range(7)] == [False, False, True] * 2 + [False]
        assert switched == [True]

    assert run(tmp_path / "folder" / "t.json", scenario)[:2] == [
        {"id": 1, "model_name": "m", "model_version": 1, "request_id": "r?"},
        {
            "id": 1,
            "timestamps": [
                {"name": "REQUEST_START", "ns": 1_500_000_000},
                {"name": "REQUEST_END", "ns": 2_000_000_000},
            ],
        },
    ]


def test_a_count_ends_tracing_with_its_last_trace(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer, switched: list[bool]) -> None:
        tracer.change(ON | {"trace_count": "2"})
        assert [tracer.takes_next("m") for _ in range(3)] == [True, True, False]
        tracer.record("m", 1, None, {})
        assert switched == [True]
        tracer.record("m", 1, None, {})
        assert switched == [True, False]

    assert len(run(tmp_path / "t.json", scenario)) == 4


def test_a_models_own_settings_win_and_null_gives_them_up(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer, switched: list[bool]) -> None:
        tracer.change(ON, "m")
        assert (trace(tracer), trace(tracer, "other")) == (True, False)
        tracer.change({"trace_rate": "7", "trace_count": 5})
        assert (tracer.shown("m")["trace_rate"], tracer.shown("m")["trace_count"]) == ("1", "5")
        assert tracer.shown("other")["trace_rate"] == "7"
        tracer.change({"trace_level": None, "trace_rate": None}, "m")
        assert tracer.shown("m") == tracer.shown()
        assert switched == [True, False]
        tracer.change({"trace_rate": None, "trace_count": None})
        assert (tracer.shown()["trace_rate"], tracer.shown()["trace_count"]) == ("1000", "-1")

    run(tmp_path / "t.json", scenario)


def test_the_file_is_whole_after_each_write_and_tracing_ends_where_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "t.json"

    def holds(entries: int) -> bool:
        # Whole after a write, not in the middle of one.
        with suppress(json.JSONDecodeError):
            return path.exists() and len(json.loads(path.read_text())) == entries
        return False

    async def scenario(tracer: Tracer, switched: list[bool]) -> None:
        tracer.change(ON)
        for entries in (1024, 2048):
            for _ in range(512):
                trace(tracer)
            await until(partial(holds, entries))
        await until(lambda: switched == [True, False])
        assert tracer.shown()["trace_level"] == ["OFF"]

    assert len(run(path, scenario, max_bytes=150_000)) == 2048


def test_a_file_that_cannot_be_written_ends_tracing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    async def scenario(tracer: Tracer, switched: list[bool]) -> None:
        tracer.change(ON)
        trace(tracer)
        await tracer.close()
        await until(lambda: switched == [True, False])

    assert run(tmp_path / "file" / "t.json", scenario) == []
    assert "tracing ends" in caplog.text


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ({"trace_level": []}, InvalidInput, r"'trace_level' is \[\]; send \['OFF'\] or \['TIMESTAMPS'\]"),
        ({"trace_level": ["LOUD"]}, InvalidInput, "'LOUD'"),
        ({"trace_level": 7}, InvalidInput, "'trace_level' is 7"),
        ({"trace_level": ["TIMESTAMPS", "TENSORS"]}, Unsupported, "tensors are not written"),
        ({"trace_rate": "0"}, InvalidInput, "'trace_rate' is '0'; send an integer from 1"),
        ({"trace_rate": "many"}, InvalidInput, "'trace_rate' is 'many'"),
        ({"trace_rate": "9" * 400}, InvalidInput, "'trace_rate' is '999"),
        ({"trace_rate": True}, InvalidInput, "'trace_rate' is True"),
        ({"trace_count": "-2"}, InvalidInput, "'trace_count' is '-2'; send an integer from -1"),
        ({"trace_count": "²"}, InvalidInput, "'trace_count' is '²'"),
        ({"log_frequency": "50"}, Unsupported, "traces go to one file, within a second; send '0'"),
        ({"trace_file": "/etc/passwd"}, Unsupported, "trace file location can not be updated through network"),
        ({"trace_mode": "opentelemetry"}, Unsupported, "'trace_mode' is 'opentelemetry', which is not offered"),
        ({"colour": 1}, InvalidInput, "trace setting 'colour' is unknown; send one of trace_level"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(body: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as refused:
        read_changes(body, "t.json")
    assert len(str(refused.value)) < 300


def test_what_is_shown_can_be_sent_back(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer, switched: list[bool]) -> None:
        tracer.change(ON)
        shown = tracer.shown()
        tracer.change(shown)
        assert tracer.shown() == shown

    run(tmp_path / "t.json", scenario)


def test_another_process_comes_to_the_same_settings_by_the_changes_told(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer, _: list[bool]) -> None:
        tracer.change(ON)
        tracer.change({"trace_rate": "7"}, "m")
        tracer.change({"trace_count": "2", "trace_level": ["OFF"]}, "n")
        other = Tracer(TraceFile(tmp_path / "other.json", shown=tmp_path / "t.json"), lambda _: None)
        for model, changes in tracer.changes():
            other.change(changes, model)
        assert [other.shown(model) for model in (None, "m", "n")] == [tracer.shown(model) for model in (None, "m", "n")]
        # What a model did not choose goes on following all.
        tracer.change({"trace_count": "9"})
        other.change({"trace_count": "9"})
        assert other.shown("m") == tracer.shown("m")
        assert other.shown("m")["trace_count"] == "9"
        await other.close()

    run(tmp_path / "t.json", scenario)
