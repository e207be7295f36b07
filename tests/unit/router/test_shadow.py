"""Mirrored requests: compared and counted, never seen by the caller."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from service.domain.inference import InferRequest, InferResult
from service.router.answer import Answer
from service.router.shadow import ShadowMirror, agree
from tests.async_waiting import until


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([[1.0, 2.0, 0.5]], [[10.0, 11.0, -3.0]], True),
        ([[1.0, 2.0, 0.5]], [[2.0, 1.0, 0.5]], False),
        ([[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]], False),
        ([[100.0]], [[101.0]], True),
        ([[100.0]], [[103.0]], False),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], False),
        ([], [], True),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([np.inf, 1.0], [3.0, 1.0], False),
        ([3.0, 1.0], [np.inf, 1.0], False),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([[1.0], [np.nan], [2.0]], [[1.0], [np.nan], [2.0]], True),
        ([np.nan], [np.nan], True),
    ],
)
def test_answers_agree_by_top_class_or_within_two_percent(
    one: list[list[float]], other: list[list[float]], same: bool
) -> None:
    assert agree({"y": np.array(one, np.float32)}, {"y": np.array(other, np.float32)}) is same


def test_halves_far_apart_differ() -> None:
    assert not agree({"y": np.array([6e4], np.float16)}, {"y": np.array([-6e4], np.float16)})


def test_integers_and_names_must_be_equal() -> None:
    assert agree({"y": np.array([1, 2])}, {"y": np.array([1, 2])})
    assert not agree({"y": np.array([1, 2])}, {"y": np.array([1, 3])})
    assert not agree({"y": np.array([1, 2])}, {"z": np.array([1, 2])})


def test_a_shadow_gets_a_request_after_callers_of_every_kind_have_their_answer() -> None:
    order: list[str] = []

    class Replica:
        def submit(self, request: InferRequest, route: object) -> Answer:
            order.append("shadow")
            return Answer()

    async def main() -> None:
        route = SimpleNamespace(model="m", version=1, variant="v")
        mirror = ShadowMirror(cast("Any", SimpleNamespace(route=route, replica=Replica())))
        answer = Answer()
        mirror.watch(InferRequest({}), answer)

        async def caller() -> None:
            await answer
            order.append("awaiting caller")

        waiting = asyncio.create_task(caller())
        await asyncio.sleep(0)
        answer.add_done_callback(lambda _: order.append("caller told"))
        answer.set_result(InferResult({}, "v", 1, "stable", 0, 0))
        await waiting
        await until(lambda: "shadow" in order)

    asyncio.run(main())
    assert order == ["caller told", "awaiting caller", "shadow"]
