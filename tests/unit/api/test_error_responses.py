"""One form for every error: no class without a status, no framework body, no traceback outside the log."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from service.api.error_responses import error_body, install_error_handlers, status_of
from service.errors import InvalidRecipe, OctavoError, QueueFull


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: int


def all_errors(root: type[OctavoError] = OctavoError) -> list[type[OctavoError]]:
    return [root, *(error for child in root.__subclasses__() for error in all_errors(child))]


class Client:
    """Sends requests to an application in this process."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://octavo") as client:
                return await client.request(method, path, **content)

        return asyncio.run(main())


@pytest.fixture(name="client")
def _client() -> Client:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/recipes")
    def make(recipe: Recipe, number: int = 0) -> int:
        return recipe.rows

    @app.get("/fails/{kind}")
    def fail(kind: str) -> None:
        if kind == "crash":
            raise ZeroDivisionError("secret detail")
        raise QueueFull("full; try later") if kind == "full" else InvalidRecipe("no such method")

    return Client(app)


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_every_error_of_the_tree_has_a_status(error: type[OctavoError]) -> None:
    assert 400 <= status_of(error("x")) <= 599


def test_only_what_can_be_tried_again_says_when(client: Client) -> None:
    full = client.send("GET", "/fails/full")
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert full.json() == {"error": "full; try later", "code": "queue_full"}
    wrong = client.send("GET", "/fails/recipe")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_recipe")
    assert "retry-after" not in wrong.headers


def test_unknown_paths_and_wrong_methods_answer_in_the_same_form(client: Client) -> None:
    missing = client.send("GET", "/nowhere")
    assert missing.status_code == 404
    assert missing.json() == {
        "error": "Not Found: there is no path '/nowhere'; see /docs for those that there are",
        "code": "not_found",
    }
    wrong = client.send("PUT", "/recipes")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json() == {"error": "Method Not Allowed: PUT on '/recipes'; send POST", "code": "method_not_allowed"}


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/recipes", '{"rows": "many"}', "rows is 'many': "),
        ("/recipes", "{}", "rows is missing; send it"),
        ("/recipes", '{"rows": 1, "speed": 2}', "speed is not a known field; leave it out; known there: rows"),
        ("/recipes", '{"rows": 1, "row": 2}', "row is not a known field; send 'rows' instead, or leave it out"),
        ("/recipes", '{"rows": 1, "' + "x" * 10_000 + '": 2}', "xxx"),
        ("/recipes", "{", "the body is not JSON"),
        ("/recipes?number=x", '{"rows": 1}', "query.number is 'x'"),
        ("/recipes", '{"rows": "' + "x" * 10_000 + '"}', "rows is 'xxx"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(client: Client, path: str, content: str, message: str) -> None:
    answer = client.send("POST", path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert answer.json()["error"].startswith(message)
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, "with the header content-type: application/x-www-form"),
        ({"content-type": "text/" + "x" * 10_000}, "with the header content-type: text/xxx"),
        ({}, "without a content-type header"),
    ],
)
def test_a_body_that_is_not_sent_as_json_is_told_by_its_header(
    client: Client, headers: dict[str, str], words: str
) -> None:
    answer = client.send("POST", "/recipes", content=b'{"rows": 1}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["error"].startswith(f"the body was sent {words}")
    assert answer.json()["error"].endswith("; send JSON with the header content-type: application/json")
    assert len(answer.content) < 1000


def test_a_crash_tells_callers_nothing_and_the_log_everything(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = client.send("GET", "/fails/crash")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert any(record.exc_info and "secret detail" in str(record.exc_info[1]) for record in caplog.records)


def test_a_message_that_utf_8_cannot_hold_is_still_json() -> None:
    assert json.loads(error_body("name \ud800", "not_found"))["error"] == "name \ud800"
