"""Whatever arrives, leaves, fails, hurries or is set anew, and in whatever order: every answer is its own request's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.batching import Batching
from service.domain.inference import InferRequest
from service.errors import DeadlineExceeded, DeadlineUnreachable, EngineFailed, InvalidTensor, OctavoError, QueueFull
from service.router.answer import Answer
from tests.async_waiting import until
from tests.fake_engine import rows
from tests.unit.router.bench import ROUTE, Bench, run

POISON = 666.0
MAX_ROWS = 6


@dataclass(frozen=True)
class Send:
    """`size` rows, of which the first is poison where `bad`; `leaves` is whether the caller gives up in the end."""

    size: int
    bad: bool
    timeout: float | None
    priority: int
    leaves: bool


@dataclass(frozen=True)
class Turns:
    """The loop goes round so often; `blocked` is whether the engine stops in its next run meanwhile."""

    count: int
    blocked: bool


SENDS = st.builds(
    Send,
    st.integers(1, MAX_ROWS),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([None, None, 0.0005, 0.005, 60.0]),
    st.integers(0, 4),
    st.sampled_from([False, False, True]),
)
TURNS = st.builds(Turns, st.integers(1, 4), st.booleans())
SETTINGS = st.builds(
    Batching,
    max_batch_rows=st.sampled_from([None, 1, 3, MAX_ROWS]),
    preferred_batch_rows=st.sampled_from([(), (2,), (2, 4)]),
    batch_delay_seconds=st.sampled_from([None, 0.001, 0.003, 60.0]),
    max_queue_rows=st.sampled_from([None, 4, 12]),
    timeout_seconds=st.sampled_from([None, None, 0.004]),
    priority_levels=st.just(3),
    default_priority=st.integers(1, 3),
) | st.just(Batching())
ALLOWED = (EngineFailed, QueueFull, DeadlineExceeded, DeadlineUnreachable)


class Traffic:
    """Plays a script against a replica and remembers what each request must be answered."""

    def __init__(self, bench: Bench, may_block: bool) -> None:
        self._bench = bench
        self._may_block = may_block
        self._next = 1.0
        self.sent: list[tuple[Answer, list[float], Send]] = []

    async def play(self, step: Send | Turns | Batching) -> None:
        if isinstance(step, Send):
            self._send(step)
        elif isinstance(step, Turns):
            if step.blocked and self._may_block:
                self._bench.engine.block()
            for _ in range(step.count):
                await asyncio.sleep(0)
            self._bench.engine.gate.set()
        else:
            self._bench.replica.follow(step)

    def _send(self, step: Send) -> None:
        values = [self._next + place for place in range(step.size)]
        self._next += step.size
        if step.bad:
            values[0] = POISON
        request = InferRequest(rows(*values), timeout_seconds=step.timeout, priority=step.priority)
        try:
            answer = self._bench.replica.submit(request, ROUTE)
        except (QueueFull, DeadlineUnreachable):
            return
        except InvalidTensor:
            assert step.size > self._bench.replica.max_rows
            return
        self.sent.append((answer, values, step))

    async def check(self) -> None:
        for answer, _, step in self.sent:
            if step.leaves:
                answer.cancel()
        await asyncio.wait([asyncio.ensure_future(_ended(answer)) for answer, _, _ in self.sent])
        for answer, values, step in self.sent:
            self._check_one(answer, values, step)
        await until(lambda: self._bench.replica.queued_rows == 0)

    def _check_one(self, answer: Answer, values: list[float], step: Send) -> None:
        if answer.cancelled():
            assert step.leaves
            return
        error = answer.exception()
        if error is None:
            assert not step.bad
            assert answer.result().outputs["y"][:, 0].tolist() == values
        else:
            assert isinstance(error, ALLOWED), error
            assert isinstance(error, EngineFailed) <= step.bad, "a poisoned request fails alone"
            assert isinstance(error, QueueFull) <= (step.priority != 1), "the highest priority is never displaced"


async def _ended(answer: Answer) -> None:
    try:
        await answer
    except (OctavoError, asyncio.CancelledError):
        return


@settings(max_examples=300)
@given(
    script=st.lists(SENDS | SENDS | TURNS | SETTINGS, min_size=1, max_size=40),
    inline_rows=st.sampled_from([0, 2, MAX_ROWS]),
    instances=st.integers(1, 3),
)
def test_every_request_ends_with_its_own_answer_or_its_own_refusal(
    script: list[Send | Turns | Batching], inline_rows: int, instances: int
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.poison = POISON
        # On the loop itself a blocked engine would block those who open the gate.
        traffic = Traffic(bench, may_block=not inline_rows)
        for step in script:
            await traffic.play(step)
        # Nothing waits for company any more: neither a request nor an instance may be left with the delay before.
        bench.replica.follow(Batching())
        if traffic.sent:
            await traffic.check()
        assert max((len(batch) for batch in bench.engine.batches), default=0) <= MAX_ROWS
        assert bench.replica._batcher._waiting.deadlines == 0
        await until(lambda: bench.replica._batcher._asleep == instances)

    run(scenario, max_rows=MAX_ROWS, inline_rows=inline_rows, instances=instances, seconds={1: 1e-5, MAX_ROWS: 5e-5})
