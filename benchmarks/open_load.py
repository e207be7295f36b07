"""A load that does not wait for answers: requests at a fixed rate whatever the server does, in a process of its own.

Run as `python -m benchmarks.open_load`; takes one JSON command a line on stdin and answers one JSON line each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._received = bytearray()
        self._sent_at = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self._load.idle.append(self)

    def send(self, due: float) -> None:
        """Sends the request; its latency counts from `due`, when it should have gone out."""
        self._sent_at = due
        self._received.clear()
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) >= end + 4 + length:
            self._load.answered(self, int(head[9:12]), time.perf_counter() - self._sent_at)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost += 1


class OpenLoad:
    """`rate` requests/s for `seconds`; rate 0 sends on each connection as soon as it is answered.

    An answer of more than `late_after` seconds is late.
    """

    def __init__(self, request: bytes, rate: float, seconds: float, late_after: float) -> None:
        self.request = request
        self.idle: deque[Connection] = deque()
        self.lost = 0
        self._rate = rate
        self._seconds = seconds
        self._late_after = late_after
        self._latencies: dict[int, list[float]] = {}
        # Answers that came before the load's seconds ended, and not late: those after would flatter the rate.
        self._within: dict[int, int] = {}
        self._due: deque[float] = deque()
        self._under_way = 0
        self._ends = 0.0
        self._offered = False
        self._ended = asyncio.Event()

    def answered(self, connection: Connection, status: int, seconds: float) -> None:
        self._latencies.setdefault(status, []).append(seconds)
        self._under_way -= 1
        now = time.perf_counter()
        self._within[status] = self._within.get(status, 0) + (now <= self._ends and seconds <= self._late_after)
        if self._due:
            self._send(connection, self._due.popleft())
        elif not self._rate and now < self._ends:
            self._send(connection, now)
        else:
            self.idle.append(connection)
            if self._offered and not self._under_way:
                self._ended.set()

    async def run(self) -> dict[str, Any]:
        began = time.perf_counter()
        self._ends = began + self._seconds
        if self._rate:
            await self._offer(began)
        else:
            for connection in [self.idle.popleft() for _ in range(len(self.idle))]:
                self._send(connection, began)
            await asyncio.sleep(self._seconds)
        self._offered = True
        if self._under_way:
            await self._ended.wait()
        # Closing the connections comes after: what was lost by now, the server closed.
        answers = {
            status: _summary(latencies, self._late_after) | {"within": self._within[status]}
            for status, latencies in self._latencies.items()
        }
        return {"lost": self.lost, "answers": answers}

    async def _offer(self, began: float) -> None:
        for number in range(int(self._rate * self._seconds)):
            due = began + number / self._rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            elif number % 16 == 0:
                await asyncio.sleep(0)
            if self.idle:
                self._send(self.idle.popleft(), due)
            else:
                # Counted from when it was due: a server that takes no more requests is slow, not spared.
                self._due.append(due)

    def _send(self, connection: Connection, due: float) -> None:
        self._under_way += 1
        connection.send(due)


def _summary(latencies: list[float], late_after: float) -> dict[str, Any]:
    milliseconds = np.array(latencies) * 1e3
    p50, p99 = np.percentile(milliseconds, (50, 99))
    late = int((milliseconds > late_after * 1e3).sum())
    return {"count": len(latencies), "p50_ms": p50, "p99_ms": p99, "max_ms": milliseconds.max(), "late": late}


async def offer(url: str, content: bytes, headers: dict[str, str], connections: int, **load: float) -> dict[str, Any]:
    """One load; what each status was answered how often and how fast. `load` is OpenLoad's."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    sending = OpenLoad("\r\n".join(lines).encode() + b"\r\n\r\n" + content, **load)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(sending), parts.hostname, parts.port)
    found = await sending.run()
    for connection in sending.idle:
        connection.transport.close()
    return found


def main() -> None:
    """Serves commands until stdin ends."""
    for line in sys.stdin:
        command = json.loads(line)
        content = Path(command.pop("body")).read_bytes()
        print(json.dumps(uvloop.run(offer(content=content, **command))), flush=True)


if __name__ == "__main__":
    main()
