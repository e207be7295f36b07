"""A shape that a model with open axes cannot take costs its own request, and no other in the queue beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from service.domain.inference import InferRequest, InferResult
from service.domain.limits import InferLimits
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import InvalidTensor
from service.router.router import Router
from tests.served_models import STABLE, deployment, served
from tests.unit.quantization.small_models import fp32, model_of, saved, u_net, value
from tests.unit.router.router_bench import sample


def picture(height: int) -> InferRequest:
    return InferRequest({"x": np.full((1, 3, height, 8), height, np.float32)})


def test_a_bad_shape_fails_alone_as_its_callers_fault(tmp_path: Path) -> None:
    path = saved(u_net(), tmp_path / "m.onnx")
    labels = {"model": "m", "version": "1", "variant": STABLE, "route": "stable"}

    async def scenario() -> None:
        router = Router(InferLimits(max_batch_rows=8), lambda _: OnnxRuntimeEngine.load(path, threads=1))
        try:
            await router.deploy(served(deployment()))
            batches = sample("octavo_compute_duration_seconds_count", **labels)
            sent = [router.infer("m", None, picture(height)) for height in (8, 7, 8, 6, 7)]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            for height, answer in zip((8, 7, 8, 6, 7), answers, strict=True):
                if height == 7:
                    assert isinstance(answer, InvalidTensor)
                    assert "input 'x' of shape [1, 3, 7, 8]" in str(answer), "its own shape, and not the batch's"
                else:
                    assert isinstance(answer, InferResult)
                    assert answer.outputs["y"].shape == (1, 7, height, 8)
                    assert (answer.outputs["y"][:, :3] == height).all()
            assert sample("octavo_compute_duration_seconds_count", **labels) == batches + 3
        finally:
            await router.close(5)

    asyncio.run(scenario())


def test_an_engine_that_takes_no_made_up_row_answers_its_callers_rows_and_refuses_others(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"], "m")
    weights = {"w": fp32(np.ones((7, 2)))}
    model = model_of([product], [value("x", ("batch", "length"))], [value("y", ("batch", 2))], weights)
    path = saved(model, tmp_path / "m.onnx")

    async def scenario() -> None:
        router = Router(InferLimits(max_batch_rows=8), lambda _: OnnxRuntimeEngine.load(path, threads=1))
        try:
            await router.deploy(served(deployment()))
            for rows in (1, 3):
                answer = await router.infer("m", None, InferRequest({"x": fp32(np.ones((rows, 7)))}))
                assert (answer.outputs["y"] == 7).all()
                assert answer.outputs["y"].shape == (rows, 2)
            with pytest.raises(InvalidTensor, match="cannot take input 'x'"):
                await router.infer("m", None, InferRequest({"x": fp32(np.ones((1, 6)))}))
        finally:
            await router.close(5)

    asyncio.run(scenario())
