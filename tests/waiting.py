"""Waiting for another process without guessing how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")


def wait_until(probe: Callable[[], T], seconds: float = 30.0) -> T:
    """Asks `probe` until its answer is true, and gives that answer. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = Event()
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{probe} was not true within {seconds} s; its last answer was {answer!r}")
        pause.wait(0.02)
