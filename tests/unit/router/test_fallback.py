"""What answers where a deployed engine cannot be loaded, or is lost with its device, and how that is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from service.domain.deployment import Deployment, ServedModel
from service.domain.inference import InferRequest
from service.domain.limits import InferLimits
from service.errors import DeviceFailed, EngineFailed, NoReadyVersion
from service.metrics import REGISTRY
from service.router.model_state import READY, UNAVAILABLE
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.fake_engine import row
from tests.samples import certificate
from tests.served_models import STABLE, artifact, served

GPU, CPU = "int8-tensorrt", "int8-openvino"
Scenario = Callable[[Router, EngineShelf], Awaitable[None]]


def wish(*fallbacks: str, canary: str | None = None, shadow: str | None = None, revision: int = 1) -> ServedModel:
    """GPU is the stable variant, with these to fall back on."""
    weight = 50 if canary else 0
    model = served(Deployment("m", 1, GPU, canary, weight, shadow, revision))
    artifacts = {name: replace(one, certificate=certificate()) for name, one in model.artifacts.items()}
    chain = tuple(artifact(variant=name) for name in fallbacks)
    return replace(model, artifacts=artifacts, fallbacks=chain)


def run(scenario: Scenario) -> EngineShelf:
    shelf = EngineShelf(biases={f"m-1-{GPU}": 100.0, f"m-1-{CPU}": 200.0})

    async def main() -> None:
        router = Router(InferLimits(), shelf.load)
        try:
            async with asyncio.timeout(20):
                await scenario(router, shelf)
        finally:
            shelf.gate.set()
            await router.close(5)

    asyncio.run(main())
    assert all(engine.closed for engine in shelf.engines.values())
    return shelf


async def value(router: Router) -> float:
    return float((await router.infer("m", None, InferRequest(row(1)))).outputs["y"][0, 0])


def fallback_series(variant: str, fallback: str) -> float | None:
    labels = {"model": "m", "version": "1", "variant": variant, "fallback": fallback}
    return REGISTRY.get_sample_value("octavo_engine_fallbacks", labels)


def test_the_first_fallback_that_loads_answers_and_the_index_the_metrics_and_the_log_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        shelf.broken |= {f"m-1-{GPU}", f"m-1-{CPU}"}
        with pytest.raises(EngineFailed, match=f"m-1-{GPU} is broken"):
            await router.deploy(wish(CPU, STABLE))
        assert await value(router) == 1
        (line,) = router.statuses()
        assert line.state == READY
        assert line.reason == f"m-1-{GPU} is broken; the FP32 reference answers in its place" == router.notice("m")
        assert fallback_series(GPU, STABLE) == 1
        assert router.current("m") is None

    run(scenario)
    record = next(record for record in caplog.records if "fallback answers" in record.message)
    assert (record.__dict__["variant"], record.__dict__["fallback"]) == (GPU, STABLE)


def test_where_no_fallback_loads_the_first_failure_is_told() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        shelf.broken |= {f"m-1-{GPU}", f"m-1-{STABLE}"}
        with pytest.raises(EngineFailed, match=f"m-1-{GPU} is broken"):
            await router.deploy(wish(STABLE))
        with pytest.raises(NoReadyVersion, match=f"m-1-{GPU} is broken"):
            await value(router)
        assert [line.state for line in router.statuses()] == [UNAVAILABLE]

    run(scenario)


def test_an_engine_that_cannot_be_loaded_is_handed_over_to_be_built_again() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        shelf.broken.add(f"m-1-{GPU}")
        wanted = wish(CPU)
        assert router.answering(wanted) is wanted
        with pytest.raises(EngineFailed):
            await router.deploy(wanted)
        (failed,) = router.answering(wanted).unproven
        assert failed.variant == GPU
        assert failed.certificate is not None
        assert failed.certificate.reason == f"m-1-{GPU} is broken"
        # A newer wish is not judged by what an older one met.
        newer = wish(CPU, revision=2)
        assert router.answering(newer) is newer

    run(scenario)


def test_what_answered_before_goes_on_rather_than_a_fallback_of_the_new_wish() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(Deployment("m", 1, STABLE)))
        shelf.broken.add(f"m-1-{GPU}")
        with pytest.raises(EngineFailed):
            await router.deploy(wish(CPU, revision=2))
        assert await value(router) == 1
        assert shelf.loads == [f"m-1-{STABLE}", f"m-1-{GPU}"]

    run(scenario)


def test_the_deployed_engine_takes_over_as_soon_as_it_can_be_loaded() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        now = [0.0]
        wanted = wish(CPU)
        reconciler = Reconciler(router, lambda: {"m": wanted}, clock=lambda: now[0])
        shelf.broken.add(f"m-1-{GPU}")
        await reconciler.reconcile_now()
        assert await value(router) == 201
        shelf.broken.clear()
        now[0] = 61.0
        await reconciler.reconcile_now()
        assert await value(router) == 101
        assert (router.notice("m"), fallback_series(GPU, CPU)) == ("", None)
        assert router.current("m") == wanted

    run(scenario)


def test_settling_on_an_engine_that_cannot_be_loaded_says_why_though_a_fallback_answers() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        shelf.broken.add(f"m-1-{GPU}")
        reconciler = Reconciler(router, lambda: {"m": wish(CPU)})
        with pytest.raises(EngineFailed, match=f"m-1-{GPU} is broken"):
            await reconciler.settle("m", 1)
        assert await value(router) == 201

    run(scenario)


async def lose(router: Router, shelf: EngineShelf, variant: str) -> None:
    """The device under the variant's engine fails, and every engine on it can be loaded no more."""
    shelf.engines[f"m-1-{variant}"].device_lost = True
    shelf.broken.add(f"m-1-{variant}")


def test_a_lost_device_takes_the_replica_and_not_the_server_and_the_fallback_answers() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(wish(CPU, STABLE))
        assert await value(router) == 101
        await lose(router, shelf, GPU)
        with pytest.raises(DeviceFailed, match="illegal memory access"):
            await value(router)
        await until(lambda: f"m-1-{CPU}" in shelf.engines and router.models()[0].stable.route.variant == CPU)
        assert await value(router) == 201
        assert router.statuses()[0].reason.endswith(f"variant {CPU!r} answers in its place")
        await until(lambda: shelf.engines[f"m-1-{GPU}"].closed)

    run(scenario)


def test_until_the_fallback_is_loaded_the_lost_replica_answers_at_once_that_it_is_lost_and_is_not_ready() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(wish(CPU))
        shelf.slow.add(f"m-1-{CPU}")
        await lose(router, shelf, GPU)
        ready = {"model": "m", "version": "1", "variant": GPU}
        assert REGISTRY.get_sample_value("octavo_engines_ready", ready) == 1
        for _ in range(3):
            with pytest.raises(DeviceFailed) as caught:
                await value(router)
            assert caught.value.retryable
        assert REGISTRY.get_sample_value("octavo_engines_ready", ready) is None
        shelf.gate.set()
        await until(lambda: router.models()[0].stable.route.variant == CPU)

    run(scenario)


def test_where_nothing_stands_in_for_a_lost_engine_the_model_is_not_ready_and_says_why() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(wish())
        await lose(router, shelf, GPU)
        with pytest.raises(DeviceFailed):
            await value(router)
        await until(lambda: not router.models())
        with pytest.raises(NoReadyVersion, match="is broken"):
            await value(router)

    run(scenario)


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_replica_lost_while_its_model_is_changed_does_not_bring_back_what_was_deployed_then(withdrawn: bool) -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(wish(STABLE, canary=CPU))
        shelf.slow.add(f"m-1-{STABLE}")
        for variant in (GPU, CPU):
            await lose(router, shelf, variant)
        with pytest.raises(DeviceFailed):
            await router.infer("m", None, InferRequest(row(1), variant=GPU))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        newer = served(Deployment("m", 2, STABLE, revision=2))
        changing = asyncio.ensure_future(router.deploy(newer))
        with pytest.raises(DeviceFailed):
            await router.infer("m", None, InferRequest(row(1), variant=CPU))
        if withdrawn:
            changing.cancel()
            router.withdraw("m")
        shelf.gate.set()
        await asyncio.gather(changing, return_exceptions=True)
        await until(lambda: not router._closing)
        assert [(line.version, line.state) for line in router.statuses()] == ([] if withdrawn else [(2, READY)])

    run(scenario)


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_lost_canary_or_shadow_leaves_the_stable_route_alone(role: str) -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(wish(STABLE, **{role: CPU}))  # type: ignore[arg-type]
        await lose(router, shelf, CPU)
        answers = await asyncio.gather(*(value(router) for _ in range(8)), return_exceptions=True)
        assert 101 in answers
        await until(lambda: len(router.models()[0].all) == 1)
        assert {await value(router) for _ in range(8)} == {101}

    run(scenario)


def test_the_members_of_a_batch_are_not_run_alone_on_a_device_that_is_lost() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(wish(STABLE))
        engine = shelf.engines[f"m-1-{GPU}"]
        engine.device_lost = True
        runs: list[int] = []
        infer = engine._infer

        def counted(inputs: dict[str, object]) -> object:
            runs.append(1)
            return infer(inputs)  # type: ignore[arg-type]

        engine._infer = counted  # type: ignore[assignment, method-assign]
        answers = await asyncio.gather(*(value(router) for _ in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [DeviceFailed] * 4
        assert len(runs) == 1

    run(scenario)
