"""Durable jobs: states, stages and attempts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

STATES = ("queued", "running", "succeeded", "rejected", "failed", "cancelled")
FINISHED = frozenset({"succeeded", "rejected", "failed", "cancelled"})
STAGES = ("inspect", "calibrate", "convert", "build", "validate", "gate", "publish")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a job: pending, running, done, skipped, failed or cancelled. `seconds` is None until it ends."""

    name: str
    state: str = "pending"
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One durable piece of work as its callers see it. `progress` runs from 0 to 1 over all stages."""

    id: str
    kind: str
    model: str
    version: int
    state: str
    stage: str | None
    progress: float
    attempt: int
    stages: tuple[Stage, ...]
    request: dict[str, Any]
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED
