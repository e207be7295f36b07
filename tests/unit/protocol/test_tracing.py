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

from service.domain.inference import InferResult
from service.errors import InvalidInput, Unsupported
from service.protocol.trace_file import TraceFile
from service.protocol.trace_settings import read_changes
from service.protocol.tracing import Tracer
from tests.async_waiting import until

ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}


def run(path: Path, scenario: Callable[[Tracer], Any], max_bytes: int = 10_000) -> list[dict[str, Any]]:
    """What the file holds in the end."""

    async def main() -> None:
        tracer = Tracer(TraceFile(path, max_bytes), clock=lambda: 2.0)
        try:
            async with asyncio.timeout(10):
                await scenario(tracer)
        finally:
            await tracer.close()

    asyncio.run(main())
    return list(json.loads(path.read_text())) if path.exists() else []


def answer(tracer: Tracer, model: str = "m", request_id: str | None = None, times: int = 1) -> None:
    result = InferResult({}, "fp32", 1, "stable", queue_us=100_000, compute_us=200_000)
    for _ in range(times):
        tracer.answered(model, request_id, 1.5, 1.6, result)


def test_nothing_is_traced_and_no_file_made_until_somebody_asks(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer) -> None:
        answer(tracer, times=2000)
        assert tracer.shown()["trace_level"] == ["OFF"]
        assert not tracer.active

    assert run(tmp_path / "t.json", scenario) == []


def test_every_so_many_requests_one_is_traced_and_written_as_the_protocol_has_it(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer) -> None:
        tracer.change({"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
        answer(tracer, request_id="r\ud800", times=7)

    entries = run(tmp_path / "folder" / "t.json", scenario)
    assert len(entries) == 4
    assert entries[:2] == [
        {"id": 1, "model_name": "m", "model_version": 1, "request_id": "r?"},
        {
            "id": 1,
            "timestamps": [
                {"name": "REQUEST_START", "ns": 1_500_000_000},
                {"name": "QUEUE_START", "ns": 1_600_000_000},
                {"name": "COMPUTE_START", "ns": 1_700_000_000},
                {"name": "COMPUTE_INPUT_END", "ns": 1_700_000_000},
                {"name": "COMPUTE_OUTPUT_START", "ns": 1_900_000_000},
                {"name": "COMPUTE_END", "ns": 1_900_000_000},
                {"name": "REQUEST_END", "ns": 2_000_000_000},
            ],
        },
    ]


def test_a_count_ends_tracing_with_its_last_trace(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON | {"trace_count": "2"})
        active = []
        for _ in range(3):
            active.append(tracer.active)
            answer(tracer)
        assert active == [True, True, False]

    assert len(run(tmp_path / "t.json", scenario)) == 4


def test_what_is_answered_after_the_end_is_not_traced(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON)
        answer(tracer)
        await tracer.close()
        answer(tracer)

    assert len(run(tmp_path / "t.json", scenario)) == 2


def test_a_models_own_settings_win_and_null_gives_them_up(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON, "m")
        answer(tracer, request_id="traced")
        answer(tracer, "other", request_id="passed")
        tracer.change({"trace_rate": "7", "trace_count": 5})
        assert (tracer.shown("m")["trace_rate"], tracer.shown("m")["trace_count"]) == ("1", "5")
        assert tracer.shown("other")["trace_rate"] == "7"
        tracer.change({"trace_level": None, "trace_rate": None}, "m")
        assert tracer.shown("m") == tracer.shown()
        assert not tracer.active
        tracer.change({"trace_rate": None, "trace_count": None})
        assert (tracer.shown()["trace_rate"], tracer.shown()["trace_count"]) == ("1000", "-1")

    assert [entry["request_id"] for entry in run(tmp_path / "t.json", scenario)[::2]] == ["traced"]


def test_the_file_is_whole_after_each_write_and_tracing_ends_where_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "t.json"

    def holds(entries: int) -> bool:
        # Whole after a write, not in the middle of one.
        with suppress(json.JSONDecodeError):
            return path.exists() and len(json.loads(path.read_text())) == entries
        return False

    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON)
        for entries in (1024, 2048):
            answer(tracer, times=512)
            await until(partial(holds, entries))
        await until(lambda: not tracer.active)
        assert tracer.shown()["trace_level"] == ["OFF"]

    assert len(run(path, scenario, max_bytes=300_000)) == 2048


def test_a_file_that_was_taken_away_or_cut_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    file = TraceFile(path)
    file.append([{"id": number} for number in range(10)])
    path.rename(tmp_path / "rotated.json")
    file.append([{"id": 10}])
    assert json.loads(path.read_text()) == [{"id": 10}]
    path.write_bytes(b"")
    file.append([{"id": 11}])
    file.append([{"id": 12}])
    assert json.loads(path.read_text()) == [{"id": 11}, {"id": 12}]


def test_what_a_full_disk_left_of_a_write_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    file = TraceFile(path)
    file.append([{"id": 1}])
    with path.open("r+b") as half:
        half.seek(-3, 2)
        half.write(b',\n{"id": 2, "model_name": "a long one", "half of')
    file.append([{"id": 3}])
    assert json.loads(path.read_text()) == [{"id": 1}, {"id": 3}]


def test_a_change_begins_only_those_counts_anew_that_it_concerns(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON | {"trace_count": "1"}, "m")
        answer(tracer)
        assert not tracer.active
        tracer.change({"log_frequency": "0"})
        tracer.change({"log_frequency": "0"}, "m")
        tracer.change({"trace_count": "7"})
        assert not tracer.active
        tracer.change({"trace_count": "1"}, "m")
        assert tracer.active

    run(tmp_path / "t.json", scenario)


def test_a_file_that_cannot_be_written_ends_tracing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON)
        answer(tracer)
        await tracer.close()
        await until(lambda: not tracer.active)

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
    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON)
        shown = tracer.shown()
        tracer.change(shown)
        assert tracer.shown() == shown

    run(tmp_path / "t.json", scenario)


def test_another_process_comes_to_the_same_settings_by_the_changes_told(tmp_path: Path) -> None:
    async def scenario(tracer: Tracer) -> None:
        tracer.change(ON)
        tracer.change({"trace_rate": "7"}, "m")
        tracer.change({"trace_count": "2", "trace_level": ["OFF"]}, "n")
        other = Tracer(TraceFile(tmp_path / "other.json", shown=tmp_path / "t.json"))
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
