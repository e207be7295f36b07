"""What the v2 protocol tells of a version: what it answered since the process started, by whichever variants."""

from __future__ import annotations

from typing import Any

from service.domain.deployment import Deployment
from service.domain.inference import InferRequest
from service.protocol.recording import record_answer
from service.protocol.statistics import model_statistics
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.fake_engine import row
from tests.served_models import STABLE, served
from tests.unit.router.router_bench import INT8, run, sample


async def ask(router: Router, model: str, times: int) -> None:
    for _ in range(times):
        submitted = router.submit(model, None, InferRequest(row(1)))
        await submitted.answer
        record_answer(submitted, 0.001)


def counts(router: Router, model: str) -> dict[str, int]:
    told: dict[str, Any] = model_statistics(router.routes(model))
    stats = {name: told["inference_stats"][name]["count"] for name in ("success", "queue", "compute_infer")}
    rows = sum(size["batch_size"] * size["compute_infer"]["count"] for size in told["batch_stats"])
    return stats | {"inferences": told["inference_count"], "executions": told["execution_count"], "rows": rows}


def each(count: int) -> dict[str, int]:
    return dict.fromkeys(("success", "queue", "compute_infer", "inferences", "executions", "rows"), count)


def test_counts_of_a_version_go_on_where_another_variant_is_made_stable() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(Deployment("promoted", 1, STABLE)))
        await ask(router, "promoted", 3)
        before = model_statistics(router.routes("promoted"))["last_inference"]
        await router.deploy(served(Deployment("promoted", 1, STABLE, INT8, 100, revision=2)))
        await ask(router, "promoted", 2)
        await router.deploy(served(Deployment("promoted", 1, INT8, revision=3)))
        assert counts(router, "promoted") == each(5)
        assert model_statistics(router.routes("promoted"))["last_inference"] >= before > 0

    run(scenario)


def test_each_version_has_counts_of_its_own() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(Deployment("versioned", 1, STABLE)))
        await ask(router, "versioned", 3)
        await router.deploy(served(Deployment("versioned", 2, STABLE, revision=2)))
        assert counts(router, "versioned") == each(0)
        await router.deploy(served(Deployment("versioned", 1, STABLE, revision=3)))
        assert counts(router, "versioned") == each(3)

    run(scenario)


def test_what_a_shadow_runs_is_no_request() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(Deployment("mirrored", 1, STABLE, shadow=INT8)))
        await ask(router, "mirrored", 4)
        labels = {"model": "mirrored", "version": "1", "variant": INT8, "outcome": "agree"}
        await until(lambda: sample("octavo_shadow_comparisons_total", **labels) == 4)
        assert counts(router, "mirrored") == each(4)

    run(scenario)
