"""What a log line holds."""

from __future__ import annotations

import json
import logging

from service.logs import JsonFormatter, log_context


def _line(message: str, **extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "service.test"} | extra)
    line: dict[str, object] = json.loads(JsonFormatter().format(record))
    return line


def test_a_line_is_one_json_object_with_its_context_and_fields() -> None:
    with log_context(job="j1"), log_context(engine="e1"):
        line = _line("hello\nworld", code="x")
    assert line["message"] == "hello\nworld"
    assert (line["job"], line["engine"], line["code"], line["level"]) == ("j1", "e1", "x", "INFO")
    assert "job" not in _line("after")


def test_a_value_that_json_cannot_hold_is_written_as_text() -> None:
    assert _line("x", value=object)["value"] == "<class 'object'>"
