"""What the protocol tells of the server and its models: metadata and configuration. Answers no inference."""

from __future__ import annotations

from typing import Any

from service import __version__
from service.domain.batching import QueuePolicy
from service.domain.engine import GPU_RUNTIMES
from service.domain.tensor import TensorSpec
from service.errors import NotFound
from service.router.replica import Replica
from service.router.routes import ModelRoutes

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "trace",
)
# The protocol's own name for a platform, by runtime.
_PLATFORMS = {
    "onnxruntime": "onnxruntime_onnx",
    "onnxruntime-cuda": "onnxruntime_onnx",
    "onnxruntime-tensorrt": "onnxruntime_onnx",
    "openvino": "openvino_onnx",
    "tensorrt": "tensorrt_plan",
}


def server_metadata() -> dict[str, Any]:
    return {"name": "octavo", "version": __version__, "extensions": list(EXTENSIONS)}


def version_number(model: str, version: str | None) -> int | None:
    """The version of a path, or None without one. Raises NotFound for one that is no number."""
    if version is None:
        return None
    if not (version.isascii() and version.isdigit() and len(version) <= 18):
        raise NotFound(f"Request for unknown model: {model[:80]!r} version {version[:40]!r} is not found, nor a number")
    return int(version)


def model_metadata(routes: ModelRoutes) -> dict[str, Any]:
    replica = routes.stable.replica
    return {
        "name": routes.served.name,
        "versions": [str(routes.served.version.version)],
        "platform": platform(replica.artifact.runtime),
        "inputs": [spec.to_json() for spec in replica.inputs],
        "outputs": [spec.to_json() for spec in replica.outputs],
    }


def platform(runtime: str) -> str:
    return _PLATFORMS.get(runtime, runtime)


def model_config(routes: ModelRoutes) -> dict[str, Any]:
    """The model configuration of the stable route, as Triton's clients and tools read it."""
    replica = routes.stable.replica
    rows = replica.max_rows
    config: dict[str, Any] = {
        "name": routes.served.name,
        "platform": platform(replica.artifact.runtime),
        "backend": replica.artifact.runtime,
        "version_policy": {"specific": {"versions": [routes.served.version.version]}},
        "max_batch_size": rows,
        "input": [_config_tensor(spec, rows) for spec in replica.inputs],
        "output": [_config_tensor(spec, rows) for spec in replica.outputs],
        "instance_group": [_instance_group(routes.stable.route.variant, replica)],
        "model_transaction_policy": {"decoupled": False},
    }
    if rows:
        config["dynamic_batching"] = _dynamic_batching(replica.policy)
    return config


def _dynamic_batching(policy: QueuePolicy) -> dict[str, Any]:
    return {
        "preferred_batch_size": list(policy.preferred_rows),
        "max_queue_delay_microseconds": int(policy.delay_seconds * 1e6),
        "priority_levels": policy.priority_levels,
        "default_priority_level": policy.default_priority,
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": int((policy.timeout_seconds or 0) * 1e6),
            "allow_timeout_override": True,
            "max_queue_size": policy.queue_rows,
        },
    }


def _instance_group(variant: str, replica: Replica) -> dict[str, Any]:
    group: dict[str, Any] = {"name": variant, "kind": "KIND_CPU", "count": replica.instances}
    return group | {"kind": "KIND_GPU", "gpus": [0]} if replica.artifact.runtime in GPU_RUNTIMES else group


def _config_tensor(spec: TensorSpec, rows: int) -> dict[str, Any]:
    """With a batch size the configuration leaves the batch axis out, where the metadata shows it."""
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.shape[1:] if rows else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(dims)}
