"""From a classifier's output to scores, and pictures that meet a change of version or a full house."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from service.api import predict
from service.api.predict import Predictor, class_scores
from service.domain.engine import EngineArtifact
from service.domain.inference import Array
from service.domain.limits import InferLimits
from service.domain.tensor import TensorSpec
from service.engines.engine import Engine
from service.errors import InvalidPreprocessing, QueueFull
from service.router.router import Router
from tests.fake_engine import FakeEngine
from tests.served_models import PREPROCESSING, deployment, served

PICTURE = bytes(cv2.imencode(".png", np.full((4, 4), 255, np.uint8))[1])


def test_logits_become_probabilities() -> None:
    scores = class_scores(np.array([[1.0, 2.0, 3.0]], np.float32))
    assert scores.sum() == pytest.approx(1.0)
    assert scores.argmax() == 2
    assert scores[2] / scores[1] == pytest.approx(np.e)


def test_probabilities_stay_as_they_are() -> None:
    assert class_scores(np.array([[0.25, 0.75]], np.float32)).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_scores_are_numbers_whatever_the_model_gives(bad: float) -> None:
    for row in ([bad, 1.0], [bad, bad], [1.0, bad]):
        scores = class_scores(np.array([row], np.float32))
        assert np.isfinite(scores).all()
        assert scores.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(1,), (2, 3), (1, 2, 3), (1, 0), ()])
def test_an_output_that_is_no_row_of_classes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidPreprocessing, match="no row of classes"):
        class_scores(np.zeros(shape, np.float32))


def test_a_row_of_classes_may_have_axes_of_one() -> None:
    assert class_scores(np.zeros((1, 4, 1, 1), np.float32)).tolist() == [0.25] * 4


class Classifier(FakeEngine):
    """Two classes from `side` x `side` grey pixels."""

    def __init__(self, side: int) -> None:
        specs = (TensorSpec("x", "FP32", (-1, 1, side, side)),), (TensorSpec("y", "FP32", (-1, 2)),)
        super().__init__(*specs)

    def infer(self, inputs: object, outputs: object = None) -> dict[str, Array]:
        rows = len(super().infer(inputs)["y"])  # type: ignore[arg-type]
        return {"y": np.tile(np.array([[0, 1]], np.float32), (rows, 1))}


def run(scenario: Callable[[Router, Predictor], Awaitable[None]]) -> None:
    def load(artifact: EngineArtifact) -> Engine:
        return Classifier(2 * artifact.version)

    async def main() -> None:
        limits = InferLimits()
        router = Router(limits, load)
        predictor = Predictor(router, limits)
        try:
            await scenario(router, predictor)
        finally:
            predictor.close()
            await router.close(5)

    asyncio.run(main())


def test_a_version_that_changes_while_the_picture_is_decoded_gets_its_own_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Version 1 takes 2 x 2 pixels and version 2 takes 4 x 4."""
    second = served(deployment(version=2, revision=2), (), replace(PREPROCESSING, width=4, height=4))

    async def scenario(router: Router, predictor: Predictor) -> None:
        await router.deploy(served(deployment(), (), PREPROCESSING))
        loop, decode = asyncio.get_running_loop(), predict._image_to_tensor
        shapes: list[tuple[int, ...]] = []

        def decode_and_swap(*arguments: object) -> Array:
            tensor = decode(*arguments)  # type: ignore[arg-type]
            shapes.append(tensor.shape)
            if len(shapes) == 1:
                asyncio.run_coroutine_threadsafe(router.deploy(second), loop).result(10)
            return tensor

        monkeypatch.setattr(predict, "_image_to_tensor", decode_and_swap)
        body = await predictor.predict("m", PICTURE, 5)
        assert (body.version, shapes) == (2, [(1, 1, 2, 2), (1, 1, 4, 4)])
        assert [prediction.index for prediction in body.predictions] == [1, 0]

    run(scenario)


def test_more_pictures_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_MAX_WAITING", 2)

    async def scenario(router: Router, predictor: Predictor) -> None:
        await router.deploy(served(deployment(), (), PREPROCESSING))
        sent = [predictor.predict("m", PICTURE, 1) for _ in range(3)]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        assert sorted(isinstance(answer, QueueFull) for answer in answers) == [False, False, True]
        assert (await predictor.predict("m", PICTURE, 1)).predictions[0].index == 1

    run(scenario)
