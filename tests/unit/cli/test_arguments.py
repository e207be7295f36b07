"""What no command can send is wrong usage, told with the option's name, and nothing is asked of the server."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

# As the system gives the byte 0xff.
NOT_UTF8 = os.fsdecode(b"\xff")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(b"model")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize(
    ("command", "option"),
    [("batching m --timeout", "--timeout"), ("batching m --delay", "--delay"), ("quantize m --max-loss", "--max-loss"),
     ("quantize m --min-speedup", "--min-speedup"), ("quantize m --percentile", "--percentile")],
)  # fmt: skip
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_numbers_must_be_finite(octavo: Octavo, server: ScriptedServer, command: str, option: str, value: str) -> None:
    outcome = octavo(*command.split(), value)
    assert outcome.code == 2
    assert option in outcome.err
    assert server.received == []


@pytest.mark.parametrize(
    "command",
    ["deploy *", "deploy m *", "batching *", "jobs *", "jobs --model *", "report *", "quantize m --keep-float *",
     "upload {model} --name *", "dataset {model} --name d --model *", "predict * {model}", "infer m --input *",
     "jobs --url http://*"],
)  # fmt: skip
def test_text_must_be_utf8(octavo: Octavo, server: ScriptedServer, model: Path, command: str) -> None:
    outcome = octavo(*(part.format(model=model).replace("*", NOT_UTF8) for part in command.split()))
    assert outcome.code == 2
    assert r"\udcff' is not UTF-8" in outcome.err
    assert server.received == []


def test_a_files_name_may_have_any_bytes(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    for name in ("net.onnx", "labels.txt"):
        (tmp_path / f"{NOT_UTF8}{name}").write_bytes(b"content")
    server.answer("POST", "/models", {"name": "m", "version": 1}, status=201)
    options = ("--name", "m", "--labels", tmp_path / f"{NOT_UTF8}labels.txt")
    assert octavo("upload", tmp_path / f"{NOT_UTF8}net.onnx", *options).code == 0
    assert b'filename="?net.onnx"' in server.only("POST", "/models").body


def test_a_failure_that_names_such_a_file_is_told_in_json(
    octavo: Octavo, server: ScriptedServer, tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", np.zeros(1, np.float32))
    server.answer("POST", "/v2/models/m/infer", {"outputs": []})
    target = tmp_path / NOT_UTF8 / "answers.npz"
    outcome = octavo("infer", "m", "--input", f"x={tmp_path / 'rows.npy'}", "--save", target, "--json")
    assert outcome.code == 1
    assert r"\udcff/answers.npz cannot be written" in outcome.document["error"]


@pytest.mark.parametrize("key", ["", "clé", "a\nb", "a b", "k\n", "k" * 256])
def test_an_idempotency_key_is_as_the_server_takes_it(octavo: Octavo, server: ScriptedServer, key: str) -> None:
    outcome = octavo("quantize", "m", "--idempotency-key", key)
    assert outcome.code == 2
    assert "1 to 255 visible ASCII characters" in outcome.err
    assert server.received == []


@pytest.mark.parametrize(
    "command",
    ["upload * --name m", "upload {model} --name m --labels *", "upload {model} --name m --preprocessing *",
     "dataset * --name d", "dataset {model} --name d --preprocessing *"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_not_read(
    octavo: Octavo, server: ScriptedServer, model: Path, tmp_path: Path, command: str, kind: str
) -> None:
    file = tmp_path / "special"
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/null")
    outcome = octavo(*(part.format(model=model).replace("*", str(file)) for part in command.split()), COLUMNS="400")
    assert outcome.code == 2
    assert "is a pipe or a device" in outcome.err
    assert server.received == []


def test_preprocessing_nested_without_end_is_wrong_usage(
    octavo: Octavo, server: ScriptedServer, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "how.json").write_text("[" * 100_000)
    outcome = octavo("upload", model, "--name", "m", "--preprocessing", tmp_path / "how.json")
    assert outcome.code == 2
    assert "how.json" in outcome.err
    assert server.received == []
