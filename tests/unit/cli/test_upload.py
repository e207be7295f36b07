"""Uploads: what is sent, what is refused before anything is sent, and what is shown."""

from __future__ import annotations

import email
import hashlib
import io
import json
from email.message import Message
from pathlib import Path

import pytest

from service.cli.upload import CountedFile
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import Received, ScriptedServer

VERSION = {
    "name": "digits", "version": 1, "format": "onnx", "sha256": "ab", "size_bytes": 154355, "opset": 17,
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}], "created_at": "2026-11-22T10:00:00Z",
}  # fmt: skip


def form_of(request: Received) -> dict[str, bytes]:
    """The parts of a multipart form, in the order they came."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts: dict[str, bytes] = {}
    for part in email.message_from_bytes(head + request.body).get_payload():
        assert isinstance(part, Message)
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        parts[str(part.get_param("name", header="content-disposition"))] = payload
    return parts


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "digits.onnx"
    file.write_bytes(bytes(range(256)) * 1000)
    return file


def test_an_upload_sends_name_digest_labels_and_preprocessing_before_the_file(
    octavo: Octavo, server: ScriptedServer, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("zero\none\n")
    (tmp_path / "how.json").write_text('{"width": 8}')
    server.answer("POST", "/models", VERSION, status=201)
    options = ("--labels", tmp_path / "labels.txt", "--preprocessing", tmp_path / "how.json")
    assert octavo("upload", model, "--name", "digits", *options).code == 0
    parts = form_of(server.only("POST", "/models"))
    assert list(parts)[-1] == "file"
    assert parts.pop("file") == model.read_bytes()
    assert json.loads(parts.pop("preprocessing")) == {"width": 8}
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert parts == {"name": b"digits", "labels": b"zero\none\n", "sha256": digest.encode()}


def test_an_upload_declares_its_length_so_that_the_server_can_refuse_early(
    octavo: Octavo, server: ScriptedServer, model: Path
) -> None:
    server.answer("POST", "/models", VERSION, status=201)
    octavo("upload", model, "--name", "digits")
    request = server.only("POST", "/models")
    assert int(request.headers["content-length"]) == len(request.body)


def test_an_upload_shows_the_version_and_its_tensors(octavo: Octavo, server: ScriptedServer, model: Path) -> None:
    server.answer("POST", "/models", VERSION, status=201)
    outcome = octavo("upload", model, "--name", "digits")
    assert "150.7 KiB" in outcome.out
    assert "input FP32 [-1, 1, 8, 8]" in outcome.out


def test_with_json_stdout_is_the_servers_document_and_stderr_is_empty(
    octavo: Octavo, server: ScriptedServer, model: Path
) -> None:
    server.answer("POST", "/models", VERSION, status=200)
    outcome = octavo("upload", model, "--name", "digits", "--json")
    assert outcome.document == VERSION
    assert outcome.err == ""


def test_a_later_version_is_noted_to_wait_with_the_command_that_deploys_it(
    octavo: Octavo, server: ScriptedServer, model: Path
) -> None:
    server.answer("POST", "/models", VERSION | {"version": 2}, status=201)
    server.answer("GET", "/models/digits/deployment", {"version": 1, "stable": {"variant": "int8-onnxruntime"}})
    outcome = octavo("upload", model, "--name", "digits")
    assert outcome.code == 0
    assert "version 1 stays deployed" in outcome.err
    assert "`octavo deploy digits fp32-onnxruntime --version 2`" in outcome.err


def test_a_later_version_of_a_withdrawn_model_is_noted_to_wait_too(
    octavo: Octavo, server: ScriptedServer, model: Path
) -> None:
    server.answer("POST", "/models", VERSION | {"version": 2}, status=201)
    outcome = octavo("upload", model, "--name", "digits")
    assert outcome.code == 0
    assert "no version is deployed; `octavo deploy digits fp32-onnxruntime --version 2`" in outcome.err


def test_bytes_that_were_a_version_already_are_noted(octavo: Octavo, server: ScriptedServer, model: Path) -> None:
    server.answer("POST", "/models", VERSION, status=200)
    server.answer("GET", "/models/digits/deployment", {"version": 1, "stable": {"variant": "int8-onnxruntime"}})
    outcome = octavo("upload", model, "--name", "digits")
    assert outcome.code == 0
    assert "these bytes were version 1 of model digits already" in outcome.err
    assert "octavo deploy" not in outcome.err


def test_bytes_of_a_version_that_is_not_deployed_are_noted_with_the_command_that_deploys_it(
    octavo: Octavo, server: ScriptedServer, model: Path
) -> None:
    server.answer("POST", "/models", VERSION, status=200)
    server.answer("GET", "/models/digits/deployment", {"version": 3, "stable": {"variant": "int8-onnxruntime"}})
    assert "`octavo deploy digits fp32-onnxruntime --version 1`" in octavo("upload", model, "--name", "digits").err


def test_no_progress_is_printed_where_stderr_is_no_terminal(
    octavo: Octavo, server: ScriptedServer, model: Path
) -> None:
    server.answer("POST", "/models", VERSION, status=201)
    assert octavo("upload", model, "--name", "digits").err == ""


def test_a_file_that_is_not_there_is_wrong_usage_and_nothing_is_sent(octavo: Octavo, server: ScriptedServer) -> None:
    assert octavo("upload", "missing.onnx", "--name", "digits").code == 2
    assert server.received == []


@pytest.mark.parametrize("content", [b"{", b"[1]", b'"text"', b"\xff\xfe", b""])
def test_preprocessing_that_is_no_json_object_is_wrong_usage(
    octavo: Octavo, server: ScriptedServer, model: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "how.json").write_bytes(content)
    outcome = octavo("upload", model, "--name", "digits", "--preprocessing", tmp_path / "how.json")
    assert outcome.code == 2
    assert "how.json" in outcome.err
    assert server.received == []


def test_a_refused_upload_tells_why(octavo: Octavo, server: ScriptedServer, model: Path) -> None:
    refusal = {"error": "the upload is 256000 bytes; at most 1000 are taken", "code": "too_large"}
    server.answer("POST", "/models", refusal, status=413)
    outcome = octavo("upload", model, "--name", "digits")
    assert outcome.code == 1
    assert "at most 1000" in outcome.err


def test_a_dataset_may_borrow_a_models_preprocessing(octavo: Octavo, server: ScriptedServer, model: Path) -> None:
    stored = {"name": "photos", "rows": 3, "arrays": {}, "labels": True, "sha256": "cd", "warnings": ["few rows"]}
    server.answer("POST", "/datasets", stored, status=201)
    outcome = octavo("dataset", model, "--name", "photos", "--model", "digits")
    assert outcome.code == 0
    assert "few rows" in outcome.out
    assert form_of(server.only("POST", "/datasets"))["model"] == b"digits"


def test_a_dataset_takes_a_model_or_preprocessing_but_not_both(
    octavo: Octavo, server: ScriptedServer, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "how.json").write_text("{}")
    both = ("--model", "digits", "--preprocessing", tmp_path / "how.json")
    assert octavo("dataset", model, "--name", "photos", *both).code == 2
    assert server.received == []


def test_a_counted_file_tells_every_byte_once() -> None:
    counts: list[int] = []
    with CountedFile(io.BytesIO(b"x" * 250), counts.append) as counted:
        while counted.read(100):
            pass
    assert counts == [100, 100, 50, 0]
