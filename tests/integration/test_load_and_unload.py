"""Explicit load and unload on real servers: over a restart, and between two servers of one database."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.installation import DIGITS, served, upload_digits
from tests.uploading import refusal
from tests.waiting import wait_until

REPOSITORY = "/v2/repository"


def change(client: httpx.Client, what: str) -> None:
    answer = client.post(f"{REPOSITORY}/models/digits/{what}")
    assert (answer.status_code, answer.content) == (200, b""), answer.text


def ready(client: httpx.Client) -> bool:
    return client.get("/v2/models/digits/ready").status_code == 200


def index(client: httpx.Client) -> list[dict[str, str]]:
    return list(client.post(f"{REPOSITORY}/index").json())


UNLOADED = [{"name": "digits", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
READY = [{"name": "digits", "version": "1", "state": "READY"}]


def test_what_is_unloaded_stays_so_over_a_restart_until_it_is_loaded(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        change(client, "unload")
        assert index(client) == UNLOADED
        assert client.get("/models/digits/deployment").json()["loaded"] is False
    with served(tmp_path) as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert index(client) == UNLOADED
        picture = (DIGITS / "sample.png").read_bytes()
        answer = client.post("/models/digits/predict", content=picture, headers={"content-type": "image/png"})
        refusal(answer, 404, "it is unloaded", "POST /v2/repository/models/digits/load")
        change(client, "load")
        assert index(client) == READY
        assert ready(client)


def test_two_servers_of_one_database_follow_each_other(tmp_path: Path) -> None:
    with served(tmp_path) as one, served(tmp_path) as other:
        upload_digits(one)
        wait_until(lambda: ready(other))
        change(one, "unload")
        assert not ready(one)
        wait_until(lambda: index(other) == UNLOADED)
        change(other, "load")
        assert ready(other)
        wait_until(lambda: index(one) == READY)


def test_a_withdrawn_model_is_a_name_in_the_index_and_loading_it_serves_its_newest_version(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        assert client.delete("/models/digits/deployment").status_code == 204
        wait_until(lambda: index(client) == [{"name": "digits"}])
        assert client.post(f"{REPOSITORY}/index", json={"ready": True}).json() == []
        refusal(client.post(f"{REPOSITORY}/models/digits/unload"), 404, "it is not deployed", "GET /models")
        change(client, "load")
        assert index(client) == READY


def test_a_deployment_that_says_so_is_unloaded(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        path = "/models/digits/deployment"
        wanted = client.get(path).json() | {"loaded": False}
        assert client.put(path, json=wanted).json() == wanted
        # Nothing answers from here on; the memory is given back in a moment, which only `unload` waits for.
        assert not ready(client)
        wait_until(lambda: index(client) == UNLOADED)
        assert client.put(path, json={"version": 1, "stable": wanted["stable"]}).json()["loaded"] is True
        assert ready(client)


@pytest.mark.parametrize("cycles", [20])
def test_load_and_unload_again_and_again(tmp_path: Path, cycles: int) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        for _ in range(cycles):
            change(client, "unload")
            assert not ready(client)
            change(client, "load")
            assert ready(client)


def test_a_stored_file_that_was_changed_is_not_served(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        change(client, "unload")
        data = bytearray((DIGITS / "digits.onnx").read_bytes())
        (stored,) = (path for path in tmp_path.rglob("content/*/*") if path.stat().st_size == len(data))
        data[len(data) // 2] ^= 1
        stored.chmod(0o600)
        stored.write_bytes(data)
        answer = client.post(f"{REPOSITORY}/models/digits/load")
        assert answer.status_code >= 500
        assert "is not what was registered: its SHA-256 is" in answer.text
        assert not ready(client)
