"""A connection that has just come, until it is known which process of the host serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def dealt(
    hand_on: Callable[[asyncio.Transport], bool], protocol: type[asyncio.Protocol]
) -> Callable[..., asyncio.Protocol]:
    """What makes the protocols of a server that listens beside others, in place of `protocol`.

    `hand_on` is whether a connection went to another process.
    """

    def make(**options: Any) -> asyncio.Protocol:
        return _Arrival(hand_on, lambda: protocol(**options))

    return make


class _Arrival(asyncio.Protocol):
    def __init__(self, hand_on: Callable[[asyncio.Transport], bool], make: Callable[[], asyncio.Protocol]) -> None:
        self._hand_on = hand_on
        self._make = make

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._hand_on(transport):
            protocol = self._make()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
