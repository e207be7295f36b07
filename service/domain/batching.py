"""How one model's requests wait and share batches: what its owner set, and what holds under the server's limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from service.domain.limits import InferLimits

MAX_PRIORITY_LEVELS = 16
MAX_ROWS = 2**20
MAX_DELAY_SECONDS = 10.0
# A day.
MAX_TIMEOUT_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Padding:
    """Lengths that a request's variable dimension is brought to, rising, by appending each input's value, else 0."""

    buckets: tuple[int, ...]
    values: tuple[tuple[str, float], ...] = ()

    def bucket(self, length: int) -> int | None:
        """The smallest bucket that holds `length`; None above the largest."""
        return next((bucket for bucket in self.buckets if bucket >= length), None)

    def to_json(self) -> dict[str, Any]:
        return {"buckets": list(self.buckets), "values": dict(self.values)}


@dataclass(frozen=True, slots=True)
class Batching:
    """What a model's owner wishes; None leaves a field to the server's settings.

    `priority_levels` 0 passes over the priorities of requests; else 1 goes first, and `default_priority` is the level
    of those that name none. `timeout_seconds` is the longest that any request may take; its own may be shorter.
    """

    max_batch_rows: int | None = None
    preferred_batch_rows: tuple[int, ...] = ()
    batch_delay_seconds: float | None = None
    max_queue_rows: int | None = None
    timeout_seconds: float | None = None
    priority_levels: int = 0
    default_priority: int = 0
    padding: Padding | None = None

    def to_json(self) -> dict[str, Any]:
        value = asdict(self) | {"preferred_batch_rows": list(self.preferred_batch_rows)}
        return value | {"padding": self.padding.to_json() if self.padding else None}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Batching:
        """The inverse of `to_json`; what is missing has its default."""
        padding = value.get("padding")
        return Batching(
            **dict(value)
            | {
                "preferred_batch_rows": tuple(value.get("preferred_batch_rows", ())),
                "padding": Padding(tuple(padding["buckets"]), tuple(padding["values"].items())) if padding else None,
            }
        )


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """The numbers that one engine's queue goes by. `max_rows` 0: its requests are never joined.

    Of what waits a batch takes up to `batch_rows` rows; a single request may have more, up to `max_rows`.
    """

    max_rows: int
    batch_rows: int
    preferred_rows: tuple[int, ...] = ()
    delay_seconds: float = 0.0
    queue_rows: int = 1024
    timeout_seconds: float | None = None
    priority_levels: int = 0
    default_priority: int = 0

    @property
    def levels(self) -> int:
        return max(1, self.priority_levels)

    @property
    def full_rows(self) -> int:
        """So many waiting rows wait for no company."""
        return min(self.preferred_rows, default=self.batch_rows)

    def level_of(self, priority: int) -> int:
        """The place of a request's priority among the levels, from 0; 0 and what is beyond the last are the default."""
        if not self.priority_levels:
            return 0
        return (priority if 0 < priority <= self.priority_levels else self.default_priority) - 1

    def cut(self, rows: int) -> int:
        """The largest preferred size that `rows` rows fill; `rows` where they fill none."""
        return max((size for size in self.preferred_rows if size <= rows), default=rows)


def policy_of(batching: Batching, limits: InferLimits, engine_rows: int, saturating_rows: int) -> QueuePolicy:
    """The wish within what the server allows and what the engine takes at once, `engine_rows`; 0 joins nothing.

    Unless its owner prefers sizes, a batch has at most `saturating_rows` rows, more of which are answered no faster.
    """
    rows = min(engine_rows, batching.max_batch_rows or engine_rows)
    preferred = tuple(size for size in batching.preferred_batch_rows if size <= rows)
    delay = batching.batch_delay_seconds
    return QueuePolicy(
        max_rows=rows,
        batch_rows=rows if preferred else min(rows, saturating_rows),
        preferred_rows=preferred,
        delay_seconds=(limits.max_delay_seconds if delay is None else delay) if rows else 0.0,
        queue_rows=batching.max_queue_rows or limits.max_queue_rows,
        timeout_seconds=batching.timeout_seconds,
        priority_levels=batching.priority_levels,
        default_priority=batching.default_priority,
    )
