"""Whether a request may join the queue before an engine, and the words for those that may not or must leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil

from service.domain.batching import QueuePolicy
from service.errors import DeadlineExceeded, DeadlineUnreachable, OctavoError, QueueFull, Stopping, Unavailable
from service.router.backlog import Backlog
from service.router.batch import Pending
from service.router.waiting import WaitingRequests

# An answer that leaves at its deadline arrives after it: so much is kept for its way, or less of a short timeout.
_RETURN_SECONDS = 0.005
_RETURN_SHARE = 0.02


def answering_seconds(timeout: float) -> float:
    """How long after it was queued a request's answer must be on its way, to be there within `timeout` seconds."""
    return timeout - min(_RETURN_SECONDS, _RETURN_SHARE * timeout)


def check_deadline(pending: Pending, backlog: Backlog, waiting: WaitingRequests, policy: QueuePolicy) -> None:
    """Raises DeadlineUnreachable where what waits and runs leaves too little time to answer before the deadline."""
    left = pending.deadline - pending.queued_at
    if backlog.seconds_until_answered(waiting, policy, pending) <= left:
        return
    waiting.sweep(pending.queued_at)
    needed = backlog.seconds_until_answered(waiting, policy, pending)
    if needed <= left:
        return
    if not waiting and not backlog.running:
        backlog.times.forgive(pending.rows)
    told = (
        f"a timeout of {round(pending.timeout * 1e6)} microseconds cannot be met: with {waiting.rows} rows waiting an "
        f"answer takes up to {ceil(needed * 1e6)}; allow more, or try again after the seconds in Retry-After"
    )
    raise _retryable(DeadlineUnreachable(told), needed - left)


def make_room(pending: Pending, backlog: Backlog, waiting: WaitingRequests, policy: QueuePolicy) -> list[Pending]:
    """Those of lower priority that leave a full queue for the request. Raises QueueFull where they would not do.

    A request larger than the whole queue may join an empty one.
    """
    if not waiting or waiting.rows + pending.rows <= policy.queue_rows:
        return []
    waiting.sweep(pending.queued_at)
    surplus = waiting.rows + pending.rows - policy.queue_rows
    if not waiting or surplus <= 0:
        return []
    displaced = waiting.displace(surplus, pending.level)
    if displaced:
        return displaced
    told = (
        f"Exceeds maximum queue size: {waiting.rows} of {policy.queue_rows} rows wait; "
        "try again after the seconds in Retry-After"
    )
    raise _retryable(QueueFull(told), backlog.seconds_until_answered(waiting, policy, pending))


def _retryable(refusal: Unavailable, seconds: float) -> Unavailable:
    """`refusal`, which who raises it must not hold: its traceback would keep the request's tensors until collected."""
    refusal.retry_after_seconds = max(1, ceil(seconds))
    return refusal


def refuse(leaving: Iterable[Pending], why: Callable[[Pending], OctavoError]) -> None:
    """Answers those that leave the queue with an error; call it on the event loop."""
    for pending in leaving:
        if not pending.answer.done():
            pending.answer.set_exception(why(pending))


def displaced_by_priority(_: Pending) -> OctavoError:
    return QueueFull(
        "Exceeds maximum queue size: requests of higher priority came to a full queue; "
        "try again after the seconds in Retry-After"
    )


def too_late(pending: Pending) -> OctavoError:
    return expired(pending.timeout)


def expired(seconds: float) -> DeadlineExceeded:
    """For a request that was not answered within the `seconds` that it allowed."""
    return DeadlineExceeded(
        f"Request timeout expired after {round(seconds * 1e6)} microseconds; allow more, or retry later"
    )


def stopping() -> Stopping:
    return Stopping(
        "Server is stopping, scheduler for model has stopped accepting new inference requests; go elsewhere"
    )
