"""Deployments taking effect: routes swap at once, failures leave alone what answers, and nothing is dropped."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from service.domain.deployment import Deployment, ServedModel
from service.domain.engine import Fingerprint, on_host
from service.domain.inference import InferRequest
from service.errors import InvalidTensor, NoReadyVersion, NotFound, NotReady, Stopping
from service.metrics import QUEUED_ROWS, REGISTRY
from service.router.model_state import LOADING, READY, UNAVAILABLE, UNLOADING, VersionStatus
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.samples import artifact as certified
from tests.served_models import STABLE, deployment, served, with_canary
from tests.unit.router.router_bench import INT8, ask, run, sample, value


def test_a_deployed_model_answers_by_its_stable_route() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        result = await ask(router)
        assert (result.variant, result.version, result.route) == (STABLE, 1, "stable")
        assert await value(router, version=1) == 1

    run(scenario)


def test_the_words_for_what_does_not_answer_are_the_protocols() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        with pytest.raises(NotFound, match="Request for unknown model: 'm' is not found"):
            await ask(router)
        shelf.slow.add("m-1-" + STABLE)
        loading = asyncio.ensure_future(router.deploy(served(deployment())))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        with pytest.raises(NoReadyVersion, match="'m' has no available versions; it is loading"):
            await ask(router)
        with pytest.raises(NotReady, match="'m' version 1 is not at ready state"):
            await ask(router, version=1)
        assert [(line.version, line.state) for line in router.statuses()] == [(1, LOADING)]
        assert not router.settled
        shelf.gate.set()
        await loading
        with pytest.raises(NotFound, match="'m' version 7 is not found"):
            await ask(router, version=7)
        with pytest.raises(NotFound, match=f"variant 'fp64' of model 'm' is not deployed; name one of {STABLE}"):
            await ask(router, variant="fp64")
        with pytest.raises(InvalidTensor):
            await router.infer("m", None, InferRequest({}))
        assert router.settled

    run(scenario)


def test_an_engine_without_proof_on_this_host_is_told_of_in_the_index() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        unproven = on_host(certified(), Fingerprint("cpu", (), "none", {"onnxruntime": "1"}))
        await router.deploy(replace(served(deployment()), unproven=(unproven,)))
        (line,) = router.statuses()
        assert line.state == READY
        assert line.reason.startswith(f"variant {INT8!r} is unproven on this host and the FP32 reference answers: ")
        assert await value(router) == await value(router, STABLE)
        with pytest.raises(NotReady, match=f"variant '{INT8}' of model 'm' is not at ready state; .* unproven on this"):
            await ask(router, variant=INT8)

    run(scenario)


def test_a_swap_answers_by_the_new_engine_and_closes_the_old_one() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        await router.deploy(served(deployment(version=2, revision=2)))
        assert await value(router) == 201
        await until(lambda: shelf.engines["m-1-" + STABLE].closed)
        await until(lambda: [(line.version, line.state) for line in router.statuses()] == [(2, READY)])

    run(scenario)


def test_requests_inside_the_old_engine_are_answered_by_it_after_the_swap() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        old = shelf.engines["m-1-" + STABLE]
        router.routes("m").stable.replica.allow_inline(False)
        old.block()
        inside = [asyncio.ensure_future(value(router)) for _ in range(3)]
        assert await asyncio.to_thread(old.running.wait, 10)
        await router.deploy(served(deployment(version=2, revision=2)))
        assert await value(router) == 201
        assert not old.closed
        old.gate.set()
        assert await asyncio.gather(*inside) == [1, 1, 1]

    run(scenario)


def test_the_same_artifact_is_not_loaded_again() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        base = deployment()
        await router.deploy(served(base))
        canary = with_canary(base, INT8, 50)
        await router.deploy(served(canary))
        await router.deploy(served(with_canary(canary, INT8, 10)))
        promoted = Deployment("m", 1, INT8, revision=9)
        await router.deploy(served(promoted))
        assert await value(router) == 101

    shelf = run(scenario)
    assert shelf.loads == ["m-1-" + STABLE, "m-1-" + INT8]


def test_a_withdrawn_model_is_unknown_and_can_come_back() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        router.withdraw("m")
        router.withdraw("m")
        with pytest.raises(NotFound):
            await ask(router)
        assert router.deployed == frozenset()
        await router.deploy(served(deployment()))
        assert await value(router) == 1

    run(scenario)


def test_a_withdrawal_waits_for_no_load_and_what_is_loaded_for_it_is_closed() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        shelf.slow.add("m-1-" + STABLE)
        loading = asyncio.ensure_future(router.deploy(served(deployment())))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        router.withdraw("m")
        await router.deploy(served(deployment(version=2)))
        assert await value(router) == 201
        shelf.gate.set()
        await loading
        assert await value(router) == 201

    run(scenario)


def unloaded(revision: int = 2) -> ServedModel:
    return served(replace(deployment(revision=revision), loaded=False))


def test_an_unloaded_model_answers_what_it_admitted_and_is_listed_until_it_is_loaded_again() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        router.routes("m").stable.replica.allow_inline(False)
        engine = shelf.engines["m-1-" + STABLE]
        engine.block()
        admitted = asyncio.ensure_future(value(router))
        assert await asyncio.to_thread(engine.running.wait, 10)
        await router.deploy(unloaded())
        assert router.statuses() == [VersionStatus("m", 1, UNLOADING)]
        with pytest.raises(NoReadyVersion, match="'m' has no available versions; it is unloaded: POST /v2/repo"):
            await value(router)
        with pytest.raises(NotReady, match="'m' version 1 is not at ready state; it is unloaded"):
            await value(router, version=1)
        draining = asyncio.ensure_future(router.drained("m"))
        await asyncio.sleep(0)
        assert not draining.done()
        engine.gate.set()
        assert await admitted == 1
        await draining
        assert engine.closed
        assert router.statuses() == [VersionStatus("m", 1, UNAVAILABLE, "unloaded")]
        assert router.settled
        assert router.current("m") == unloaded()
        await router.drained("m")
        await router.deploy(served(deployment(revision=3)))
        assert await value(router) == 1

    assert run(scenario).loads == ["m-1-" + STABLE] * 2


def test_a_model_that_is_unloaded_from_the_start_loads_nothing_and_holds_up_no_readiness() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(unloaded())
        assert router.settled
        assert router.statuses() == [VersionStatus("m", 1, UNAVAILABLE, "unloaded")]

    assert run(scenario).loads == []


def test_statistics_of_a_route_go_on_where_it_is_made_anew() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment()))
        metrics = router.routes("m").stable.route.metrics
        metrics.record_failure("queue_full", 0.5)
        await router.deploy(served(deployment(revision=2)))
        assert router.routes("m").stable.route.metrics is metrics

    run(scenario)


def test_a_closed_router_says_that_it_stops_and_closes_what_it_still_loads() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        await router.deploy(served(deployment(model="other")))
        shelf.slow.add("m-1-" + STABLE)
        loading = asyncio.ensure_future(router.deploy(served(deployment())))
        assert await asyncio.to_thread(shelf.loading.wait, 10)
        await router.close(5)
        with pytest.raises(Stopping):
            await ask(router)
        shelf.gate.set()
        with pytest.raises(Stopping):
            await loading

    run(scenario)


def test_metrics_count_requests_batches_and_rows_by_variant_and_route() -> None:
    async def scenario(router: Router, shelf: EngineShelf) -> None:
        labels = {"model": "m", "version": "1", "variant": STABLE, "route": "stable"}
        names = ("octavo_queue_duration_seconds_count", "octavo_batch_size_rows_sum")
        before = [sample(name, **labels) for name in names]
        batches = sample("octavo_compute_duration_seconds_count", **labels)
        await router.deploy(served(deployment()))
        await asyncio.gather(*(value(router) for _ in range(4)))
        assert [sample(name, **labels) for name in names] == [count + 4 for count in before]
        assert sample("octavo_compute_duration_seconds_count", **labels) == batches + 1
        assert sample("octavo_engines_ready", model="m", version="1", variant=STABLE) == 1
        assert sample("octavo_engine_load_duration_seconds", model="m", version="1", variant=STABLE) > 0
        assert REGISTRY.get_sample_value("octavo_queued_rows", labels) == 0

    run(scenario)
    QUEUED_ROWS.read_from(tuple)
    assert sample("octavo_engines_ready", model="m", version="1", variant=STABLE) == 0
