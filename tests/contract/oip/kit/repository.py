"""b6: the index, load and unload. The model is unloaded for a moment, and loaded again whatever happens."""

from __future__ import annotations

from typing import Any

from tests.contract.oip.kit.rows import row
from tests.contract.oip.kit.target import Answer, NotOffered, Target, refused

STATES = {"UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"}


def _index(target: Target, body: bytes | dict[str, Any] = b"") -> list[dict[str, str]]:
    target.needs("model_repository")
    return list(target.post("/v2/repository/index", body).json)


@row("b6", "the index takes no body, {} or ready, and gives names, versions and states")
def index(target: Target) -> None:
    for body in (b"", b"{}", {"ready": True}, {"ready": False}):
        lines = _index(target, body)
        ready = [line for line in lines if line["name"] == target.model and line.get("state") == "READY"]
        assert {line["version"] for line in ready} == set(target.metadata["versions"])
        assert all(line.get("state", "UNKNOWN") in STATES for line in lines)
    assert all(line["state"] == "READY" for line in _index(target, {"ready": True}))
    refused(target.post("/v2/repository/index", b"{"), 400)


@row("b6", "what load and unload cannot do is refused with a reason")
def refusals(target: Target) -> None:
    target.needs("model_repository")
    for change in ("load", "unload"):
        refused(target.post(f"/v2/repository/models/no-such-model/{change}"), 400, 404, 503)
        refused(target.post(f"/v2/repository/models/{target.model}/{change}", b"{"), 400, 503)


@row("b6", "an unloaded model answers nothing and is listed as such; loaded again it answers")
def unload_and_load(target: Target) -> None:
    target.needs("model_repository")
    path = f"/v2/repository/models/{target.model}"
    arrays = target.arrays()
    target.answer_of(arrays)
    unloaded = target.post(f"{path}/unload", {"parameters": {"unload_dependents": False}})
    if unloaded.status == 503 and "explicit model load / unload is not allowed" in refused(unloaded, 503):
        raise NotOffered("the server loads models by itself")
    try:
        assert (unloaded.status, unloaded.body) == (200, b"")
        (line,) = [line for line in _index(target) if line["name"] == target.model]
        assert line["state"] in ("UNAVAILABLE", "UNLOADING")
        assert line.get("reason", "unloaded") == "unloaded"
        assert target.model not in {line["name"] for line in _index(target, {"ready": True})}
        refused(target.get(f"{target.path}/ready"), 400, 404, 503)
        assert "no available versions" in refused(_infer(target, arrays), 400, 404)
        assert target.get("/v2/health/ready").status == 200, "an unloaded model is no reason not to be ready"
    finally:
        loaded = target.post(f"{path}/load")
    assert (loaded.status, loaded.body) == (200, b"")
    assert target.answer_of(arrays)
    assert target.post(f"{path}/load", {"parameters": {}}).status == 200


def _infer(target: Target, arrays: dict[str, Any]) -> Answer:
    inputs, tail = target.binary_inputs(arrays)
    return target.infer_binary({"inputs": inputs}, tail)
