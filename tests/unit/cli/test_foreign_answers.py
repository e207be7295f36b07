"""Every command tells an answer that is not Octavo's: a page of a proxy, or JSON of another service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cli.shapes import JOB, fits
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

CASES: list[tuple[tuple[str, ...], str, str]] = [
    (("upload", "{file}", "--name", "digits"), "POST", "/models"),
    (("dataset", "{file}", "--name", "rows"), "POST", "/datasets"),
    (("quantize", "digits"), "POST", "/quantize"),
    (("jobs",), "GET", "/jobs"),
    (("jobs", "j1"), "GET", "/jobs/j1"),
    (("jobs", "j1", "--watch"), "GET", "/jobs/j1"),
    (("report", "j1"), "GET", "/jobs/j1/report"),
    (("deploy", "digits"), "GET", "/models/digits/deployment"),
    (("deploy", "digits", "v"), "GET", "/models/digits/deployment"),
    (("deploy", "digits", "--rollback"), "POST", "/models/digits/deployment/rollback"),
    (("batching", "digits"), "GET", "/models/digits/batching"),
    (("batching", "digits", "--reset"), "PUT", "/models/digits/batching"),
    (("predict", "digits", "{file}"), "POST", "/models/digits/predict"),
    (("infer", "digits", "--input", "x={file}"), "POST", "/v2/models/digits/infer"),
]
# Fields of the right name and the wrong type, so that no first glance at the names will do.
WRONG_FIELDS = {
    "id": 1, "jobs": [1], "stable": None, "engines": [1], "padding": 1, "predictions": [[]], "outputs": [1], "name": 1,
}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", np.zeros(3, np.float32))
    return tmp_path / "rows.npy"


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"[]", b"null", b"[" * 100_000, WRONG_FIELDS])
@pytest.mark.parametrize(("command", "method", "path"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_a_success_in_another_form_is_told_as_not_octavos(
    octavo: Octavo, server: ScriptedServer, rows: Path, command: tuple[str, ...], method: str, path: str, body: Any
) -> None:
    server.answer(method, path, body)
    outcome = octavo(*(part.format(file=rows) for part in command))
    assert outcome.code == 1
    assert "check that --url names an Octavo server" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_that_cannot_be_decompressed_is_told(octavo: Octavo, server: ScriptedServer, status: int) -> None:
    server.answer("GET", "/jobs", b"no gzip", status=status, content_encoding="gzip")
    outcome = octavo("jobs", "--json")
    assert outcome.code == 1
    assert "cannot be decoded" in outcome.err
    assert outcome.document["code"] == "foreign_answer"


@pytest.mark.parametrize("field", [{}, {"result": None}, {"stages": []}, {"result": {"deployment_error": None}}])
def test_what_an_older_server_leaves_out_of_a_job_is_no_fault(field: dict[str, Any]) -> None:
    assert fits({"id": "j1", "model": "digits", "version": 1, "state": "queued"} | field, JOB)
