"""HEAD is answered wherever GET is, with the same head and no body."""

from __future__ import annotations

import httpx
import pytest

from service.api.dependencies import Services
from tests.samples import quantize_request


@pytest.mark.parametrize("path", ["/metrics", "/models", "/models/nobody", "/jobs", "/openapi.json", "/nowhere"])
def test_a_head_is_answered_as_a_get_without_its_body(client: httpx.Client, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert head.status_code == whole.status_code
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert head.content == b""
    # The connection is right for the next request.
    assert client.get("/models").status_code == 200


def test_a_head_of_a_stream_ends(client: httpx.Client, services: Services) -> None:
    job, _ = services.jobs.submit(quantize_request())
    head = client.head(f"/jobs/{job.id}/events")
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/event-stream")
    assert client.get("/models").status_code == 200


def test_a_head_of_what_is_no_get_is_refused(client: httpx.Client) -> None:
    assert client.head("/quantize").status_code == 405
