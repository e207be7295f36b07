"""The load that does not wait: what it sends, and how it counts what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle

from benchmarks.open_load import offer

BODY = b"body"


async def answering(
    statuses: Iterator[int], load: dict[str, float], connections: int = 4
) -> dict[int, dict[str, float]]:
    """What a load against a server of these statuses reports; each of them a whole answer in two pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /infer HTTP/1.1\r\n")
                assert b"X-Kind: test\r\n" in head
                assert await reader.readexactly(len(BODY)) == BODY
                writer.write(b"HTTP/1.1 %d Some\r\nContent-Length: 5\r\n\r\nhel" % next(statuses))
                await writer.drain()
                writer.write(b"lo")
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    open_ones: list[asyncio.Task[None] | None] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/infer"
        found = await offer(url, BODY, {"X-Kind": "test"}, connections, **load)
        await asyncio.wait([task for task in open_ones if task is not None])
    assert found["lost"] == 0
    answers: dict[int, dict[str, float]] = found["answers"]
    return answers


def test_a_fixed_rate_sends_as_many_requests_as_its_seconds_hold_and_counts_each_status() -> None:
    load = {"rate": 200.0, "seconds": 0.2, "late_after": 60.0}
    answers = asyncio.run(answering(cycle([200, 429]), load))
    assert {status: found["count"] for status, found in answers.items()} == {200: 20, 429: 20}
    assert all(found["late"] == 0 for found in answers.values())


def test_what_takes_longer_than_allowed_is_late_and_no_goodput() -> None:
    answers = asyncio.run(answering(cycle([200]), {"rate": 100.0, "seconds": 0.1, "late_after": 0.0}))
    assert answers[200]["late"] == answers[200]["count"] == 10
    assert answers[200]["within"] == 0


def test_without_a_rate_each_connection_sends_again_as_soon_as_it_is_answered() -> None:
    answers = asyncio.run(answering(cycle([200]), {"rate": 0.0, "seconds": 0.1, "late_after": 60.0}, connections=2))
    assert answers[200]["count"] > 2
