"""What the upload of a form promises: bounds, clear refusals, and nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api import request_body
from service.api.dependencies import Services
from service.api.multipart import FormReader, UploadForm, storage_error
from service.api.uploads import ABANDONED_SECONDS, prepare_spool
from service.domain.limits import MIB, StageLimits, UploadLimits
from service.errors import InvalidModel, OctavoError, StorageFull, StoreUnavailable, Unavailable
from service.registry.blobs import content_key
from service.registry.database import Database
from service.registry.models import ModelRegistry
from tests.uploading import digits_model, post_model, refusal
from tests.waiting import wait_until

LIMIT = 1024 * 1024
BOUNDARY = "edge"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, data: bytes, filename: str | None = None, extra: str = "") -> bytes:
    named = f'; filename="{filename}"' if filename else ""
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{named}\r\n{extra}\r\n'
    return head.encode() + data + b"\r\n"


@contextmanager
def begun_upload(client: httpx.Client, length: int, body: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which an upload has begun: a declared length, and less than that sent so far."""
    head = (
        f"POST /models HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n"
        f"content-type: {HEADERS['content-type']}\r\n\r\n"
    )
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        yield connection


END = f"--{BOUNDARY}--\r\n".encode()
NAME = part("name", b"digits")


def test_a_form_in_single_bytes_is_read_as_one_piece(client: httpx.Client) -> None:
    body = NAME + part("file", digits_model(), "m.onnx") + END
    tail = len(body) - 300
    pieces = (body[:tail], *(body[i : i + 1] for i in range(tail, len(body))))
    answer = client.post("/models", content=iter(pieces), headers=HEADERS)
    assert answer.status_code == 201, answer.text
    assert answer.json()["sha256"] == hashlib.sha256(digits_model()).hexdigest()


def test_content_that_looks_like_a_boundary_stays_content(tmp_path: Path) -> None:
    data = b"--edge-\r\n--edg\r\n--edgX\r\n--\r\n-" * 50
    form = UploadForm({"name": 10}, (), LIMIT, InvalidModel)
    whole = NAME + part("file", data[:-1]) + END
    for step in (1, 7, 4096):
        reader = FormReader(BOUNDARY.encode(), form, tmp_path / str(step))
        for start in range(0, len(whole), step):
            reader.feed(whole[start : start + step])
        upload = reader.finish(("name",))
        assert (upload.path.read_bytes(), upload.size_bytes) == (data[:-1], len(data) - 1)


def test_a_file_as_large_as_the_limit_is_read_and_one_byte_more_is_refused(
    client: httpx.Client, nothing_left: Callable[[], None]
) -> None:
    refusal(post_model(client, b"\x08" * LIMIT), 422, f"{LIMIT} bytes")
    body = refusal(post_model(client, b"\x08" * (LIMIT + 1)), 413, f"{LIMIT}", "OCTAVO_MAX_UPLOAD_BYTES")
    assert body["code"] == "too_large"
    nothing_left()


def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_sent(
    client: httpx.Client, nothing_left: Callable[[], None]
) -> None:
    with begun_upload(client, 999_999_999_999) as connection:
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"999999999999 bytes" in answer
    nothing_left()


def test_an_endless_body_without_a_length_is_cut_at_the_limit(
    client: httpx.Client, nothing_left: Callable[[], None]
) -> None:
    def body() -> Iterator[bytes]:
        yield NAME + f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"\r\n\r\n'.encode()
        for _ in range(64):
            yield b"\x08" * (LIMIT // 16)

    refusal(client.post("/models", content=body(), headers=HEADERS), 413, "OCTAVO_MAX_UPLOAD_BYTES")
    nothing_left()


def test_bytes_after_the_closing_boundary_count_against_the_limit(client: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        yield NAME + part("file", b"x") + END
        for _ in range(40):
            yield b"z" * (LIMIT // 16)

    refusal(client.post("/models", content=body(), headers=HEADERS), 413)


def test_a_large_file_is_never_held_in_memory(services: Services, serve: Callable[[Services], httpx.Client]) -> None:
    def refuse(task: str, arguments: dict[str, Any], *, limits: StageLimits) -> dict[str, Any]:
        raise InvalidModel(f"{Path(arguments['path']).stat().st_size} bytes seen; send fewer")

    size = 64 * MIB

    def body() -> Iterator[bytes]:
        yield NAME + f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"\r\n\r\n'.encode()
        for _ in range(size // 65536):
            yield bytes(65536)
        yield b"\r\n" + END

    client = serve(replace(services, upload_limits=UploadLimits(max_upload_bytes=size), run_task=refuse))
    tracemalloc.start()
    try:
        refusal(client.post("/models", content=body(), headers=HEADERS), 422, f"{size} bytes seen")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (NAME + part("file", b"x")[:-2], "closing boundary"),
        (NAME + part("file", b"x"), "closing boundary"),
        (b"", "closing boundary"),
        (b"hello", "cannot be read"),
        (NAME + NAME + part("file", b"x") + END, "'name' twice"),
        (NAME + part("file", b"x") + part("file", b"y") + END, "'file' twice"),
        (NAME + part("colour", b"red") + END, "unknown part 'colour'"),
        (NAME + part("c" * 500, b"red") + END, "500 characters"),
        (part("file", b"x") + END, "no part 'name'"),
        (NAME + END, "no part 'file'"),
        (NAME + part("file", b"", "m.onnx") + END, "'m.onnx' is empty"),
        (part("name", b"\xff\xfe") + part("file", b"x") + END, "not UTF-8 at byte 0"),
        (part("name", b"eA==", extra="content-transfer-encoding: base64\r\n") + END, "'base64'"),
        (f"--{BOUNDARY}\r\ncontent-type: text/plain\r\n\r\nx\r\n".encode() + END, "no name"),
        (f"--{BOUNDARY}\r\nx: {'y' * 5000}\r\n\r\nx\r\n".encode() + END, "cannot be read"),
    ],
)
def test_a_malformed_form_is_refused_and_leaves_nothing(
    client: httpx.Client, nothing_left: Callable[[], None], body: bytes, words: str
) -> None:
    refusal(client.post("/models", content=body, headers=HEADERS), 422, words)
    nothing_left()


def test_a_small_part_over_its_limit_is_refused(client: httpx.Client, nothing_left: Callable[[], None]) -> None:
    refusal(post_model(client, name="n" * 70_000), 413, "'name'", "65536")
    nothing_left()


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'b' * 71}",
        "text/plain; boundary=edge",
    ],
)
def test_another_content_type_is_refused(client: httpx.Client, content_type: str) -> None:
    headers = {"content-type": content_type}
    refusal(client.post("/models", content=NAME + END, headers=headers), 422, "multipart/form-data")


def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    client: httpx.Client, services: Services, nothing_left: Callable[[], None]
) -> None:
    with begun_upload(client, 900_000, NAME + part("file", b"x" * 300_000)):
        wait_until(lambda: list(services.spool.iterdir()))
    wait_until(lambda: not list(services.spool.iterdir()))
    nothing_left()


def test_an_upload_that_stalls_is_ended(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, nothing_left: Callable[[], None]
) -> None:
    monkeypatch.setattr(request_body, "IDLE_SECONDS", 0.05)
    with begun_upload(client, 900_000, NAME) as connection:
        answer = connection.recv(65536)
    assert b"deadline_exceeded" in answer
    nothing_left()


def test_a_stated_digest_is_checked(client: httpx.Client, nothing_left: Callable[[], None]) -> None:
    refusal(post_model(client, sha256="0" * 64), 422, "0" * 64, hashlib.sha256(digits_model()).hexdigest())
    refusal(post_model(client, sha256="abc"), 422, "'abc'", "64 hexadecimal digits")
    nothing_left()
    assert post_model(client, sha256=hashlib.sha256(digits_model()).hexdigest().upper()).status_code == 201


def test_a_full_disk_answers_507_and_leaves_nothing(
    client: httpx.Client, services: Services, nothing_left: Callable[[], None]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    try:
        answer = post_model(client, b"\x08" * 900_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refusal(answer, 507, "free space")["code"] == "storage_full"
    nothing_left()


def test_a_spool_that_cannot_be_written_answers_503(client: httpx.Client, services: Services) -> None:
    services.spool.rmdir()
    refusal(post_model(client), 503, "could not be spooled")


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EFBIG, StorageFull),
        (errno.EIO, StoreUnavailable),
    ],
)
def test_disk_errors_are_told_apart(number: int, error: type[OctavoError]) -> None:
    assert type(storage_error(OSError(number, os.strerror(number)), 5)) is error


@pytest.mark.parametrize(("error", "status"), [(StorageFull("full"), 507), (StoreUnavailable("down"), 503)])
def test_a_store_that_fails_leaves_nothing(
    client: httpx.Client,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: Callable[[], None],
    error: OctavoError,
    status: int,
) -> None:
    def fail(key: str, path: Path) -> None:
        raise error

    monkeypatch.setattr(services.blobs, "put_file", fail)
    refusal(post_model(client), status)
    nothing_left()


class BrokenRegistry(ModelRegistry):
    """A database that goes away between the blob and the row."""

    def add(self, upload: Any) -> Any:
        raise Unavailable("the database did not answer; try again")


def test_a_database_that_fails_after_the_blob_was_stored_leaves_no_blob(
    services: Services, database: Database, serve: Callable[[Services], httpx.Client], nothing_left: Callable[[], None]
) -> None:
    client = serve(replace(services, models=BrokenRegistry(database)))
    refusal(post_model(client), 503, "try again")
    nothing_left()


def test_a_failed_upload_keeps_the_blob_that_another_model_uses(
    services: Services, database: Database, serve: Callable[[Services], httpx.Client]
) -> None:
    key = content_key(post_model(serve(services)).json()["sha256"])
    broken = serve(replace(services, models=BrokenRegistry(database)))
    refusal(post_model(broken, name="other"), 503)
    assert services.blobs.exists(key)


def test_a_start_clears_abandoned_uploads_and_keeps_running_ones(tmp_path: Path) -> None:
    long_ago = time.time() - ABANDONED_SECONDS - 1
    for name in ("abandoned", "running"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
        os.utime(tmp_path / name, (long_ago, long_ago))
    os.utime(tmp_path / "abandoned" / "file", (long_ago, long_ago))
    prepare_spool(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["running"]
