"""What a log line holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbos import DBOS

from service.logs import LEVELS, JsonFormatter, Levels, log_context, set_up_logging


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


def test_fields_of_the_process_are_in_every_line_and_yield_to_its_own() -> None:
    record = logging.makeLogRecord({"msg": "x", "job": "j1"})
    line = json.loads(JsonFormatter(serving_process=2, job="none").format(record))
    assert (line["serving_process"], line["job"]) == (2, "j1")


def test_a_value_that_json_cannot_hold_is_written_as_text() -> None:
    assert _line("x", value=object)["value"] == "<class 'object'>"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which every test gives back as it was."""
    root, before = logging.getLogger(), LEVELS.now
    handlers, level = root.handlers[:], root.level
    yield root
    LEVELS.now = before
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("level", "levels"),
    [
        ("DEBUG", Levels(verbose=1)),
        ("INFO", Levels()),
        ("WARNING", Levels(info=False)),
        ("ERROR", Levels(info=False, warning=False)),
    ],
)
def test_the_level_at_the_start_is_the_least_that_is_logged(root: logging.Logger, level: str, levels: Levels) -> None:
    set_up_logging(level)
    assert LEVELS.now == levels
    assert root.level == logging.getLevelNamesMapping()[level]


def test_each_level_is_logged_or_not_by_itself(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO")
    LEVELS.now = Levels(info=True, warning=False, error=True, verbose=0)
    log = logging.getLogger("service.test")
    for write in (log.debug, log.info, log.warning, log.error):
        write("said")
    levels = [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
    assert levels == ["INFO", "ERROR"]
    LEVELS.now = Levels(False, False, False, 0)
    assert not log.isEnabledFor(logging.CRITICAL)


def test_the_library_of_the_durable_workflows_writes_json_lines_too(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    set_up_logging("INFO")
    DBOS(config={"name": "test", "system_database_url": f"sqlite:///{tmp_path / 'jobs.db'}", "enable_otlp": False})
    try:
        logging.getLogger("dbos").warning("the database\nis away")
    finally:
        DBOS.destroy()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ("dbos", "the database\nis away") in [(line["logger"], line["message"]) for line in lines]
