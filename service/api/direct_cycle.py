"""An infer request that goes past ASGI, in the shape in which uvicorn keeps its requests."""

from __future__ import annotations

from service.protocol.recording import Target
from service.router.answer import Answer


class DirectCycle:
    """Stands where uvicorn keeps the request in flight, so that pipelining, shutdown and disconnects see this one."""

    __slots__ = (
        "answer",
        "disconnected",
        "headers",
        "keep_alive",
        "response_complete",
        "target",
    )

    def __init__(self, target: Target, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive
        self.answer: Answer | None = None
        self.response_complete = False
        self.disconnected = False

    @property
    def message_event(self) -> DirectCycle:
        """uvicorn sets this when the connection is lost: what waits for an answer then is not run."""
        # Not an attribute: each request would be a cycle that only the garbage collector ends.
        return self

    def set(self) -> None:
        if self.answer is not None:
            self.answer.cancel()
