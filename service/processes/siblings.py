"""Words between the serving processes of one host, over Unix sockets in a folder that no other user can enter.

One question a connection: a line of JSON, answered by a line. Waits for nobody longer than it is told to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from service.errors import OctavoError, error_class
from service.processes.place import Place

Handler = Callable[[dict[str, Any]], Awaitable[Any]]
_MAX_LINE_BYTES = 1024 * 1024
# A sibling writes its line at once.
_LINE_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Siblings:
    """The other processes, by number; there are none where `place` is None. Belongs to the event loop."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place
        self._others = [] if place is None else [each for each in place.all if each.number != place.number]
        self._handlers: Mapping[str, Handler] = {}
        self._server: asyncio.Server | None = None
        self._telling: set[asyncio.Task[Any]] = set()

    async def listen(self, handlers: Mapping[str, Handler]) -> None:
        """Answers the others from now on, each kind of question by its handler."""
        self._handlers = handlers
        if self.place is not None:
            self.place.socket.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(
                self._converse, path=str(self.place.socket), limit=_MAX_LINE_BYTES
            )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def ask(self, kind: str, seconds: float, **words: Any) -> dict[int, Any]:
        """The answers by number, of those that give one within `seconds`."""
        replies = await self._replies(kind, seconds, words)
        for number, reply in replies.items():
            if "error" in reply:
                _log.warning("a sibling failed", extra={"kind": kind, "sibling": number, "error": reply["error"]})
        return {number: reply["answer"] for number, reply in replies.items() if "answer" in reply}

    async def require(self, kind: str, seconds: float, **words: Any) -> None:
        """As ask. Raises what the first of them failed with, unless it may well do later what it is asked for."""
        for number, reply in (await self._replies(kind, seconds, words)).items():
            if "error" not in reply:
                continue
            error = error_class(reply["code"])(f"{reply['error']} (in serving process {number})")
            if not error.retryable:
                raise error
            _log.warning("a sibling is later", extra={"kind": kind, "sibling": number, "error": str(error)})

    def tell(self, kind: str, seconds: float, **words: Any) -> None:
        """Asks without waiting; a failure is logged."""
        if self._others:
            task = asyncio.get_running_loop().create_task(self.ask(kind, seconds, **words))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _replies(self, kind: str, seconds: float, words: dict[str, Any]) -> dict[int, dict[str, Any]]:
        line = orjson.dumps({"kind": kind} | words) + b"\n"
        replies = await asyncio.gather(*(self._ask_one(place, line, seconds) for place in self._others))
        for place, reply in zip(self._others, replies, strict=True):
            if reply is None:
                _log.warning("a sibling did not answer", extra={"kind": kind, "sibling": place.number})
        return {place.number: reply for place, reply in zip(self._others, replies, strict=True) if reply is not None}

    async def _ask_one(self, place: Place, line: bytes, seconds: float) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(str(place.socket), limit=_MAX_LINE_BYTES)
                try:
                    writer.write(line)
                    reply: dict[str, Any] = orjson.loads(await reader.readline())
                    return reply
                finally:
                    writer.close()
        except (OSError, ValueError):
            # It died, hangs, or has not begun to listen.
            return None

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_LINE_SECONDS):
                question = orjson.loads(await reader.readline())
            writer.write(orjson.dumps(await self._reply(question)) + b"\n")
            async with asyncio.timeout(_LINE_SECONDS):
                await writer.drain()
        except (OSError, ValueError) as error:
            _log.warning("a sibling's question was lost", extra={"error": str(error)})
        finally:
            writer.close()

    async def _reply(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"answer": await self._handlers[question["kind"]](question)}
        except OctavoError as error:
            return {"error": str(error), "code": error.code}
        except Exception as error:  # noqa: BLE001 (answered, and logged)
            _log.exception("a sibling's question failed")
            return {"error": f"{type(error).__name__}: {error}", "code": OctavoError.code}
