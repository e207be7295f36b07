"""What the model configuration says of where an engine runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from service.domain.limits import InferLimits
from service.protocol.metadata import model_config
from service.router.router import Router
from tests.engine_shelf import EngineShelf
from tests.served_models import deployment, served


@pytest.mark.parametrize(
    ("runtime", "platform", "group"),
    [
        ("onnxruntime", "onnxruntime_onnx", {"kind": "KIND_CPU", "count": 1}),
        ("openvino", "openvino_onnx", {"kind": "KIND_CPU", "count": 1}),
        ("tensorrt", "tensorrt_plan", {"kind": "KIND_GPU", "count": 2, "gpus": [0]}),
        ("onnxruntime-cuda", "onnxruntime_onnx", {"kind": "KIND_GPU", "count": 2, "gpus": [0]}),
        ("onnxruntime-tensorrt", "onnxruntime_onnx", {"kind": "KIND_GPU", "count": 2, "gpus": [0]}),
    ],
)
def test_it_names_platform_device_and_the_batches_that_run_at_once(
    runtime: str, platform: str, group: dict[str, object]
) -> None:
    async def scenario() -> None:
        router = Router(InferLimits(), EngineShelf().load)
        wish = served(deployment())
        artifacts = {variant: replace(one, runtime=runtime) for variant, one in wish.artifacts.items()}
        await router.deploy(replace(wish, artifacts=artifacts))
        config = model_config(router.routes("m"))
        assert config["platform"] == platform
        assert config["instance_group"] == [{"name": wish.deployment.stable} | group]
        await router.close(5)

    asyncio.run(scenario())
