"""b1, b2 and b7: what the server says of itself and of the model, and its errors' one form."""

from __future__ import annotations

import json
from typing import Any

from tests.contract.oip.kit.rows import row
from tests.contract.oip.kit.target import NotOffered, Target, refused

DURATIONS = {
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
}  # fmt: skip


@row("b1", "live and ready answer 200")
def health(target: Target) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", f"{target.path}/ready"):
        assert target.get(path).status == 200, path


@row("b1", "server metadata has name, version and extensions")
def server_metadata(target: Target) -> None:
    body = target.get("/v2").json
    assert {type(body["name"]), type(body["version"])} == {str}
    assert all(isinstance(extension, str) for extension in body["extensions"])


@row("b1", "a path that is none answers 404 in the protocol's form")
def unknown_path(target: Target) -> None:
    for path in ("/v2/nowhere", f"{target.path}/versions/one/ready", f"{target.path}/nowhere"):
        refused(target.get(path), 404)


@row("b1", "a wrong verb answers 405 in the protocol's form")
def wrong_verb(target: Target) -> None:
    refused(target.get(f"{target.path}/infer"), 405)
    refused(target.post("/v2/health/live"), 405)


@row("b1", "an unknown model or version answers 404 in the words that users look for")
def unknown_model(target: Target) -> None:
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    for path in ("/v2/models/no-such-model", "/v2/models/no-such-model/config"):
        assert "Request for unknown model: 'no-such-model' is not found" in refused(target.get(path), 404)
    refused(target.post("/v2/models/no-such-model/infer", body), 404)
    message = refused(target.post(f"{target.path}/versions/999999/infer", body), 404)
    assert f"Request for unknown model: '{target.model}' version 999999 is not found" in message


@row("b2", "model metadata has text versions, a platform and typed tensors")
def model_metadata(target: Target) -> None:
    body = target.metadata
    assert body["name"] == target.model
    assert body["platform"]
    assert all(isinstance(version, str) for version in body["versions"])
    for tensor in (*body["inputs"], *body["outputs"]):
        assert set(tensor) >= {"name", "datatype", "shape"}
        assert all(isinstance(extent, int) and extent >= -1 for extent in tensor["shape"])


@row("b2", "each version is found under its own path")
def versions(target: Target) -> None:
    for version in target.metadata["versions"]:
        assert target.get(f"{target.path}/versions/{version}").json["name"] == target.model
        assert target.get(f"{target.path}/versions/{version}/ready").status == 200


@row("b7", "the configuration agrees with the metadata")
def configuration(target: Target) -> None:
    target.needs("model_configuration")
    config = target.get(f"{target.path}/config").json
    assert config["name"] == target.model
    for kind in ("input", "output"):
        metadata = {spec["name"]: spec for spec in target.metadata[f"{kind}s"]}
        assert [tensor["name"] for tensor in config[kind]] == list(metadata)
        for tensor in config[kind]:
            spec = metadata[tensor["name"]]
            leading = [-1] if config["max_batch_size"] > 0 else []
            assert leading + list(map(int, tensor["dims"])) == spec["shape"]
            datatype = "STRING" if spec["datatype"] == "BYTES" else spec["datatype"]
            assert tensor["data_type"] == f"TYPE_{datatype}"


@row("b7", "statistics have all eight durations and count rows, successes and failures")
def statistics(target: Target) -> None:
    target.needs("statistics")
    rows = 2 if target.batched else 1
    before = _statistics(target)
    target.answer_of(target.arrays(rows))
    refused(target.infer({"inputs": [{"name": "no-such-input", "shape": [1], "datatype": "FP32", "data": [1]}]}), 400)
    after = _statistics(target)
    assert after["inference_count"] == before["inference_count"] + rows
    assert after["execution_count"] == before["execution_count"] + 1
    assert _count(after, "success") == _count(before, "success") + 1
    assert after["last_inference"] > 0
    assert {model["name"] for model in target.get("/v2/models/stats").json["model_stats"]} >= {target.model}


def _statistics(target: Target) -> dict[str, Any]:
    (model,) = target.get(f"{target.path}/stats").json["model_stats"]
    assert isinstance(model["version"], str)
    assert set(model["inference_stats"]) >= DURATIONS
    assert all(set(model["inference_stats"][name]) == {"count", "ns"} for name in DURATIONS)
    assert all(set(size) >= {"batch_size", "compute_infer"} for size in model["batch_stats"])
    return dict(model)


def _count(statistics: dict[str, Any], name: str) -> int:
    return int(statistics["inference_stats"][name]["count"])


@row("b7", "log settings are shown, changed one by one, and refused by name")
def log_settings(target: Target) -> None:
    target.needs("logging")
    before = target.get("/v2/logging").json
    assert set(before) >= {"log_info", "log_warning", "log_error", "log_verbose_level", "log_format"}
    try:
        changed = target.post("/v2/logging", {"log_verbose_level": before["log_verbose_level"] + 1})
        assert changed.json == before | {"log_verbose_level": before["log_verbose_level"] + 1}
        assert target.get("/v2/logging").json == changed.json
        refused(target.post("/v2/logging", {"log_info": "yes"}), 400)
        refused(target.post("/v2/logging", b"{"), 400)
        refused(target.post("/v2/logging", {"log_file": "elsewhere"}), 400, 501)
    finally:
        target.post("/v2/logging", {"log_verbose_level": before["log_verbose_level"]})


@row("b7", "trace settings are shown as text, changed for all or one model, and given up by null")
def trace_settings(target: Target) -> None:
    target.needs("trace")
    before = target.get("/v2/trace/setting").json
    assert set(before) >= {"trace_level", "trace_rate", "trace_count", "log_frequency"}
    assert isinstance(before["trace_rate"], str)
    own = f"{target.path}/trace/setting"
    try:
        assert target.post(own, {"trace_rate": "12345"}).json["trace_rate"] == "12345"
        assert target.get("/v2/trace/setting").json == before
        refused(target.post(own, {"trace_rate": "-5"}), 400)
        refused(target.post("/v2/models/no-such-model/trace/setting", {"trace_rate": "1"}), 400, 404)
    finally:
        assert target.post(own, {"trace_rate": None}).json == before


@row("b7", "shared memory is offered, or refused with a reason")
def shared_memory(target: Target) -> None:
    offered = "system_shared_memory" in target.extensions
    for kind in ("system", "cuda"):
        if f"{kind}_shared_memory" in target.extensions:
            raise NotOffered("the server does offer shared memory, which this kit does not try")
        refused(target.get(f"/v2/{kind}sharedmemory/status"), 400, 404, 501)
        refused(target.post(f"/v2/{kind}sharedmemory/region/r/register", {"byte_size": 1}), 400, 404, 501)
    assert not offered


@row("b1", "every error is JSON with a text under 'error'")
def one_form(target: Target) -> None:
    for body in (b"", b"{", b"[]", b"\xff\xfe", json.dumps({"inputs": 7}).encode()):
        refused(target.infer(body), 400)
